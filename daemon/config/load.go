package config

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// Options says where Load looks.
type Options struct {
	Path      string            // --config; "" searches
	Root      string            // --root; "" leaves [paths] and the socket alone
	Environ   []string          // as os.Environ
	Overrides map[string]string // what flags set, by key ("engine.model"); values as in the environment
}

// Loaded is a configuration that passed every check, and where it came from.
type Loaded struct {
	Config
	File  string // the file that was read, absolute; "" if there was none
	Hides string // the file that would be read if that were not there; "" if one was named, or there is none

	origins map[string]Origin
}

// Origin tells where the value of a dotted key such as "engine.model" came from.
func (l *Loaded) Origin(key string) Origin {
	if o, ok := l.origins[key]; ok {
		return o
	}
	return Origin{Source: FromDefault}
}

// Load reads the configuration: the defaults, over them one file, over it the environment, over it o.Overrides, and
// o.Root over all of them.
//
// The file is o.Path, else $STOKER_CONFIG, else config.toml in o.Root, else $XDG_CONFIG_HOME/stoker/config.toml
// (~/.config if that is not set), else /etc/stoker/config.toml. The first two must exist; of the others the first that
// exists is read.
//
// Errors are *Error or, for several at once, Errors; both match ErrInvalid.
func Load(o Options) (*Loaded, error) {
	l, err := Salvage(o)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Salvage is Load for those who can do with less: beside the error it returns what is right, with the defaults in place of
// what is not. It is nil if that cannot be had either.
func Salvage(o Options) (*Loaded, error) {
	env := parseEnviron(o.Environ)
	if o.Root != "" {
		root, err := filepath.Abs(o.Root)
		if err != nil {
			return nil, &Error{Source: "flag --root", Message: err.Error()}
		}
		o.Root = root
	}
	file, document, err := readFile(o, env)
	l, wrong := load(file, document, o, env)
	if l != nil && o.Path == "" && env["STOKER_CONFIG"] == "" {
		l.Hides = hiddenBy(file, searchPath(o.Root, env))
	}
	return l, cmp.Or(err, wrong)
}

// hiddenBy is the next file that is there of those that are searched for.
func hiddenBy(file string, searched []string) string {
	if file == "" {
		return ""
	}
	for _, candidate := range searched[slices.Index(searched, file)+1:] {
		if _, err := os.Stat(candidate); err == nil {
			return candidate
		}
	}
	return ""
}

// load is Salvage once the file has been read; file is "" if there is none.
func load(file string, document []byte, o Options, env map[string]string) (*Loaded, error) {
	l := &Loaded{Config: Default(), File: file, origins: make(map[string]Origin)}
	b := binder{origins: l.origins}
	err := b.file(&l.Config, file, document)
	b.environment(&l.Config, env)
	b.overrides(&l.Config, o.Overrides)

	p, pathErr := newPathResolver(l, env)
	if pathErr != nil {
		return nil, pathErr
	}
	p.resolve()
	if o.Root != "" {
		l.useRoot(o.Root, env["XDG_RUNTIME_DIR"])
	}
	if err != nil {
		return l, err
	}
	c := checks{loaded: l, errs: append(b.errs, p.errs...)}
	c.run()
	return l, c.errs.err()
}

// file binds the document. If it is not TOML that is the only error, and the lines without a mistake are bound.
func (b *binder) file(c *Config, file string, document []byte) error {
	var tree map[string]any
	err := toml.Unmarshal(document, &tree)
	if err != nil {
		tree, document = withoutMistakes(document)
	}
	b.bind(reflect.ValueOf(c).Elem(), nil, tree, fileSource(file, document))
	if err != nil {
		return syntaxError(file, err)
	}
	return nil
}

// maxMistakes bounds the lines that are left out of a document.
const maxMistakes = 20

// withoutMistakes empties lines of a document until the rest is TOML. That is nothing if a mistake is in no line of its own.
func withoutMistakes(document []byte) (map[string]any, []byte) {
	lines := bytes.SplitAfter(document, []byte("\n"))
	for range maxMistakes {
		var tree map[string]any
		rest := bytes.Join(lines, nil)
		err := toml.Unmarshal(rest, &tree)
		if err == nil {
			return tree, rest
		}
		d, ok := errors.AsType[*toml.DecodeError](err)
		if !ok {
			break
		}
		row, _ := d.Position()
		if row > len(lines) || len(bytes.TrimSpace(lines[row-1])) == 0 {
			break
		}
		lines[row-1] = []byte("\n")
	}
	return map[string]any{}, nil
}

func syntaxError(file string, err error) *Error {
	e := &Error{File: file, Message: strings.TrimPrefix(err.Error(), "toml: ")}
	if d, ok := errors.AsType[*toml.DecodeError](err); ok {
		e.Line, e.Column = d.Position()
	}
	return e
}

// readFile finds the file and reads it; its name is "" if there is none. An error comes with the name.
func readFile(o Options, env map[string]string) (file string, document []byte, err error) {
	switch {
	case o.Path != "":
		return readNamed(o.Path, "--config")
	case env["STOKER_CONFIG"] != "":
		return readNamed(env["STOKER_CONFIG"], "$STOKER_CONFIG")
	}
	for _, candidate := range searchPath(o.Root, env) {
		document, err := os.ReadFile(candidate)
		switch {
		case err == nil:
			return candidate, document, nil
		case !errors.Is(err, fs.ErrNotExist):
			return candidate, nil, unreadable(candidate, err, "")
		}
	}
	return "", nil, nil
}

func readNamed(path, by string) (string, []byte, error) {
	file, err := filepath.Abs(path)
	if err != nil {
		return "", nil, unreadable(path, err, by)
	}
	document, err := os.ReadFile(file)
	if err != nil {
		return file, nil, unreadable(file, err, by)
	}
	return file, document, nil
}

func unreadable(file string, err error, namedBy string) *Error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		err = pathErr.Err // the path is said already
	}
	e := &Error{File: file, Message: "read configuration: " + err.Error()}
	if namedBy != "" {
		e.Hint = "the file is named by " + namedBy
	}
	return e
}

// searchPath lists where the file may be if nothing names it.
func searchPath(root string, env map[string]string) []string {
	var files []string
	if root != "" {
		files = append(files, filepath.Join(root, "config.toml"))
	}
	// The XDG specification has relative paths ignored.
	if dir := env["XDG_CONFIG_HOME"]; filepath.IsAbs(dir) {
		files = append(files, filepath.Join(dir, "stoker", "config.toml"))
	} else if home := env["HOME"]; filepath.IsAbs(home) {
		files = append(files, filepath.Join(home, ".config", "stoker", "config.toml"))
	}
	return append(files, "/etc/stoker/config.toml")
}

// EffectiveDefaults returns the request parameters that lines of a queue leave out: those of [queue.QUEUE.defaults],
// else those of [defaults]. The map is new, its values are shared.
func (c *Config) EffectiveDefaults(queue string) map[string]any {
	defaults := make(map[string]any, len(c.Defaults))
	maps.Copy(defaults, c.Defaults)
	maps.Copy(defaults, c.Queue[queue].Defaults)
	return defaults
}

// parseEnviron makes a map of NAME=VALUE entries. As in a C library the first entry of a name counts.
func parseEnviron(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, entry := range slices.Backward(environ) {
		if name, value, ok := strings.Cut(entry, "="); ok {
			env[name] = value
		}
	}
	return env
}
