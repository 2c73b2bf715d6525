//go:build !linux && !darwin

package service

import "runtime"

// ConfigPath is where the service's configuration is if nothing else is asked for.
func ConfigPath(bool) (string, error) { return "", unsupported() }

// Install refuses.
func (s *Service) Install() error { return unsupported() }

// Uninstall refuses.
func (s *Service) Uninstall() error { return unsupported() }

// Start refuses.
func (s *Service) Start() error { return unsupported() }

// Stop refuses.
func (s *Service) Stop() error { return unsupported() }

// Restart refuses.
func (s *Service) Restart() error { return unsupported() }

// Status refuses.
func (s *Service) Status() (*Status, error) { return nil, unsupported() }

func unsupported() error {
	e := &Error{Kind: ErrUnsupported, Message: "stoker is no service on " + runtime.GOOS}
	if runtime.GOOS == "windows" {
		e.Hint = "vLLM runs on Linux: install stoker in WSL, with systemd=true below [boot] in /etc/wsl.conf"
	}
	return e
}
