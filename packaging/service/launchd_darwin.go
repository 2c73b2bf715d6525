package service

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	kardianos "github.com/kardianos/service"
)

// ConfigPath is where the service's configuration is if nothing else is asked for.
func ConfigPath(bool) (string, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find your configuration: %w", err)
	}
	return filepath.Join(home, ".config", name, "config.toml"), nil
}

// Install makes the service, or replaces one that is there.
func (s *Service) Install() error {
	m, err := s.launchd()
	if err != nil {
		return err
	}
	before, err := m.Status()
	var steps []step
	if !errors.Is(err, kardianos.ErrNotInstalled) {
		steps = append(steps, step{says: "remove the agent " + name, do: m.Uninstall})
	}
	steps = append(steps, step{says: "write ~/Library/LaunchAgents/" + name + ".plist", do: m.Install})
	if before == kardianos.StatusRunning {
		steps = append(steps, step{says: "start the agent " + name, do: m.Start})
	}
	return s.perform(steps)
}

// Uninstall stops the service and removes it. It removes no data.
func (s *Service) Uninstall() error {
	m, err := s.launchd()
	if err != nil {
		return err
	}
	return s.perform([]step{{says: "remove the agent " + name, do: m.Uninstall}})
}

// Start starts the service.
func (s *Service) Start() error { return s.control("start") }

// Stop stops the service.
func (s *Service) Stop() error { return s.control("stop") }

// Restart stops the service, if it runs, and starts it.
func (s *Service) Restart() error { return s.control("restart") }

func (s *Service) control(action string) error {
	m, err := s.launchd()
	if err != nil {
		return err
	}
	if action != "stop" {
		if err := s.o.Check(s.o.Config); err != nil {
			return err
		}
	}
	if err := kardianos.Control(m, action); err != nil {
		return &Error{Kind: ErrFailed, Message: action + " the agent " + name, Err: err}
	}
	return nil
}

// Status asks launchd.
func (s *Service) Status() (*Status, error) {
	m, err := s.launchd()
	if err != nil {
		return nil, err
	}
	state, err := m.Status()
	switch {
	case errors.Is(err, kardianos.ErrNotInstalled):
		return &Status{}, nil
	case err != nil:
		return nil, &Error{Kind: ErrFailed, Message: "status of the agent " + name, Err: err}
	case state == kardianos.StatusRunning:
		return &Status{Installed: true, State: "active"}, nil
	}
	return &Status{Installed: true, State: "inactive"}, nil
}

// launchd is the user's own: stoker has no user of the system there.
func (s *Service) launchd() (kardianos.Service, error) {
	if !s.o.User {
		return nil, &Error{Kind: ErrUnsupported, Message: "on macOS stoker is a user's own service", Hint: "add --user"}
	}
	return s.manager("")
}
