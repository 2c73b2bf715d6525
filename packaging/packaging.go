// Package packaging holds what makes stoker a service of the system: the unit, the user, the folders and the first
// configuration. `stoker service install` and the packages for Debian and Red Hat take them from here.
package packaging

import (
	"bytes"
	_ "embed"
	"fmt"
	"strings"
	"text/template"
)

var (
	//go:embed systemd/stoker.service.tmpl
	unitTemplate string

	// Sysusers is the file for sysusers.d(5) with the service's user.
	//go:embed systemd/sysusers.conf
	Sysusers string

	// Tmpfiles is the file for tmpfiles.d(5) with the service's folders.
	//go:embed systemd/tmpfiles.conf
	Tmpfiles string

	// Config is the first configuration of the system's service.
	//go:embed config.toml
	Config string

	// UserConfig is the first configuration of a user's own service.
	//go:embed user.toml
	UserConfig string
)

// Unit says what differs between units.
type Unit struct {
	Command []string // the absolute path of stoker, and its flags
	User    bool     // for a user's own service manager, which can neither change the user nor take privileges away
	Manual  bool     // the manual's pages are installed
}

// Render returns the unit file.
func (u Unit) Render() (string, error) {
	t, err := template.New("stoker.service").Parse(unitTemplate)
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, struct {
		Stoker       string
		User, Manual bool
	}{commandLine(u.Command), u.User, u.Manual}); err != nil {
		return "", fmt.Errorf("render unit: %w", err)
	}
	return out.String(), nil
}

// commandLine quotes a command line as systemd.service(5) reads it.
func commandLine(command []string) string {
	words := make([]string, len(command))
	for i, word := range command {
		words[i] = quote(word)
	}
	return strings.Join(words, " ")
}

var unitEscaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`, "\n", `\n`)

// quote leaves words as they are that mean themselves.
func quote(word string) string {
	escaped := unitEscaper.Replace(word)
	if escaped == word && word != "" && !strings.ContainsAny(word, " \t';") {
		return word
	}
	return `"` + escaped + `"`
}

// PackagedUnit is the unit of the packages.
func PackagedUnit() Unit {
	return Unit{Command: []string{"/usr/bin/stoker", "--config", ConfigPath}, Manual: true}
}

// Where the system's service keeps its files.
const (
	ConfigPath   = "/etc/stoker/config.toml"
	SysusersPath = "/etc/sysusers.d/stoker.conf"
	TmpfilesPath = "/etc/tmpfiles.d/stoker.conf"
	Home         = "/var/cache/stoker" // $HOME, by the unit
)
