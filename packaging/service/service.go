// Package service installs stoker as a service of the operating system, and controls it: by systemd on Linux, as the
// user's own by launchd on macOS.
package service

import (
	"errors"
	"fmt"
	"io"
	"strings"

	kardianos "github.com/kardianos/service"

	"stoker/hint"
)

const name = "stoker"

// What the errors of this package match with errors.Is.
var (
	ErrUnsupported  = errors.New("no service manager that stoker knows")
	ErrNotRoot      = errors.New("only root can do it")
	ErrNotInstalled = errors.New("the service is not installed")
	ErrPackaged     = errors.New("the service belongs to a package")
	ErrFailed       = errors.New("the service manager failed")
)

// Error is a failure with what the user can do about it. Its kind is one of the errors above.
type Error = hint.Error

// Options says which service, and what it runs.
type Options struct {
	User       bool   // the user's own, else the system's
	Executable string // stoker's absolute path
	Config     string // the configuration's absolute path; Install makes it if it is not there
	DryRun     bool   // tell, and do nothing
	// Check says what is wrong with a configuration, before the service is started with it.
	Check func(config string) error
	Out   io.Writer // for the user
}

// command is stoker as the service runs it, with its flags.
func (o *Options) command() []string {
	return []string{o.Executable, "--config", o.Config}
}

// Service is stoker as a service of the operating system.
type Service struct {
	o Options
}

// New returns the service. It looks at nothing yet.
func New(o Options) *Service { return &Service{o} }

// Status is what the service manager knows of the service.
type Status struct {
	Installed bool   `json:"installed"`
	Unit      string `json:"unit,omitzero"`    // the file that it is defined by
	Enabled   string `json:"enabled,omitzero"` // in systemd's words: enabled, disabled, …
	State     string `json:"state,omitzero"`   // active, activating, reloading, deactivating, inactive, failed
	Detail    string `json:"detail,omitzero"`  // systemd's sub-state, and why it failed
	Text      string `json:"text,omitzero"`    // what the daemon says of itself
	PID       int    `json:"pid,omitzero"`
	Since     string `json:"since,omitzero"`
	Restarts  int    `json:"restarts,omitzero"` // by the service manager
}

// Running reports whether the daemon's process is there, perhaps on its way up or down.
func (s *Status) Running() bool { return s.PID != 0 }

// step is a change to the system.
type step struct {
	says string // in the imperative, as for a person who does it
	text string // of the file that is written; "" if none is
	do   func() error
}

// perform takes the steps in turn, or tells them.
func (s *Service) perform(steps []step) error {
	for _, st := range steps {
		if s.o.DryRun {
			fmt.Fprintf(s.o.Out, "would %s\n", st.says)
			for line := range strings.Lines(st.text) {
				fmt.Fprint(s.o.Out, strings.TrimRight("    "+line, " \n"), "\n")
			}
			continue
		}
		fmt.Fprintln(s.o.Out, st.says)
		if err := st.do(); err != nil {
			return err
		}
	}
	if s.o.DryRun {
		fmt.Fprintln(s.o.Out, "nothing was done: --dry-run")
	}
	return nil
}

// manager is the service manager's part, by kardianos. unit is systemd's unit; "" where it is not needed.
func (s *Service) manager(unit string) (kardianos.Service, error) {
	command := append(s.o.command(), "run")
	m, err := kardianos.New(nil, &kardianos.Config{
		Name: name, Executable: command[0], Arguments: command[1:],
		Option: kardianos.KeyValue{"SystemdScript": unit, "UserService": s.o.User, "KeepAlive": true, "RunAtLoad": true},
	})
	if err != nil {
		return nil, &Error{Kind: ErrUnsupported, Message: "find the service manager", Err: err, Hint: withoutService}
	}
	return m, nil
}

const withoutService = "'stoker run' runs in the foreground: have what starts programs here start that"
