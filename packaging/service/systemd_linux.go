package service

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"stoker/packaging"
	"stoker/store/durable"
)

const unitName = name + ".service"

// ConfigPath is where the service's configuration is if nothing else is asked for.
func ConfigPath(user bool) (string, error) {
	if !user {
		return packaging.ConfigPath, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("find your configuration: %w", err)
	}
	return filepath.Join(dir, name, "config.toml"), nil
}

// Install makes the service, or brings one that is there up to date: files that differ are replaced, but never the
// configuration, and a service that runs is restarted if its unit or its program has changed.
func (s *Service) Install() error {
	if err := s.mayChange("install"); err != nil {
		return err
	}
	if unit := s.packaged(); unit != "" {
		return &Error{Kind: ErrPackaged, Message: "install: the package stoker brought the service, " + unit, Hint: "sudo systemctl enable --now stoker"}
	}
	steps, err := s.installation()
	if err != nil {
		return err
	}
	return s.perform(steps)
}

func (s *Service) installation() ([]step, error) {
	unit, err := packaging.Unit{Command: s.o.command(), User: s.o.User}.Render()
	if err != nil {
		return nil, err
	}
	path, err := s.unitPath()
	if err != nil {
		return nil, err
	}
	var steps []step
	if !s.o.User {
		steps = append(steps, s.file(packaging.SysusersPath, packaging.Sysusers)...)
		steps = append(steps, command("systemd-sysusers", unitConf))
		steps = append(steps, s.file(packaging.TmpfilesPath, packaging.Tmpfiles)...)
		steps = append(steps, command("systemd-tmpfiles", "--create", unitConf))
	}
	if _, err := os.Stat(s.o.Config); errors.Is(err, fs.ErrNotExist) {
		steps = append(steps, s.file(s.o.Config, s.firstConfig())...)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		first, err := s.firstUnit(path, unit)
		return append(steps, first), err
	}
	changed := s.file(path, unit)
	steps = append(steps, changed...)
	if len(changed) > 0 {
		steps = append(steps, s.systemctl("daemon-reload"))
	}
	steps = append(steps, s.systemctl("enable", unitName))
	if s.outdated(len(changed) > 0) {
		steps = append(steps, s.restart())
	}
	return steps, nil
}

// restart leaves a service alone that would not come back.
func (s *Service) restart() step {
	restart := s.systemctl("restart", unitName)
	return step{says: restart.says, do: func() error {
		if err := s.o.Check(s.o.Config); err != nil {
			return err
		}
		return restart.do()
	}}
}

const unitConf = name + ".conf" // in sysusers.d and tmpfiles.d

func (s *Service) firstConfig() string {
	if s.o.User {
		return packaging.UserConfig
	}
	return packaging.Config
}

// firstUnit has kardianos write the unit, enable it and reload systemd.
func (s *Service) firstUnit(path, unit string) (step, error) {
	ctl := strings.Join(s.arguments("systemctl"), " ")
	return step{
		says: fmt.Sprintf("write %s, run %s enable %s, run %s daemon-reload", path, ctl, unitName, ctl), text: unit,
		do: func() error {
			m, err := s.manager(unit)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return fmt.Errorf("install: %w", err)
			}
			if err := m.Install(); err != nil {
				return s.failed("install", err)
			}
			return durable.SyncDir(durable.Local{}, filepath.Dir(path))
		},
	}, nil
}

// outdated reports whether a daemon runs that another unit or program started.
func (s *Service) outdated(unitChanged bool) bool {
	status, err := s.Status()
	if err != nil || !status.Running() {
		return false
	}
	if unitChanged {
		return true
	}
	running, err := os.Stat(fmt.Sprintf("/proc/%d/exe", status.PID)) // also of a program that was replaced since
	if err != nil {
		return false
	}
	installed, err := os.Stat(s.o.Executable)
	return err == nil && !os.SameFile(running, installed)
}

// Uninstall stops the service and removes what Install made, but for the configuration, the user and all data.
func (s *Service) Uninstall() error {
	if err := s.mayChange("uninstall"); err != nil {
		return err
	}
	path, err := s.unitPath()
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if unit := s.packaged(); unit != "" {
			return &Error{Kind: ErrPackaged, Message: "uninstall: the package stoker brought the service, " + unit,
				Hint: "remove the package: 'sudo apt-get remove stoker' or 'sudo dnf remove stoker'"}
		}
		return s.notInstalled("uninstall")
	}
	ctl := strings.Join(s.arguments("systemctl"), " ")
	steps := []step{s.systemctl("stop", unitName), {
		says: fmt.Sprintf("run %s disable %s, remove %s, run %s daemon-reload", ctl, unitName, path, ctl),
		do: func() error {
			m, err := s.manager("")
			if err != nil {
				return err
			}
			return s.failed("uninstall", m.Uninstall())
		},
	}}
	if !s.o.User {
		steps = append(steps, remove(packaging.SysusersPath), remove(packaging.TmpfilesPath))
	}
	return s.perform(steps)
}

// Start starts the service, and returns once it takes files.
func (s *Service) Start() error { return s.control("start") }

// Stop stops the service, and returns once the requests in flight have finished, or were given up.
func (s *Service) Stop() error { return s.control("stop") }

// Restart stops the service, if it runs, and starts it.
func (s *Service) Restart() error { return s.control("restart") }

func (s *Service) control(action string) error {
	if err := s.mayChange(action); err != nil {
		return err
	}
	status, err := s.Status()
	if err != nil {
		return err
	}
	if !status.Installed {
		return s.notInstalled(action)
	}
	if err := s.check(action); err != nil {
		return err
	}
	m, err := s.manager("")
	if err != nil {
		return err
	}
	return s.failed(action, map[string]func() error{"start": m.Start, "stop": m.Stop, "restart": m.Restart}[action]())
}

// check says what is wrong with the configuration that the service would be started with. What the unit sets besides, in its
// environment, only the service itself can judge.
func (s *Service) check(action string) error {
	if action == "stop" {
		return nil
	}
	p, err := s.show("ExecStart", "Environment", "EnvironmentFiles")
	if err != nil || strings.Contains(p["Environment"], "STOKER_") || p["EnvironmentFiles"] != "" {
		return err
	}
	return s.o.Check(configOf(p["ExecStart"]))
}

// configOf finds the configuration in a unit's command, as systemctl shows it: { path=… ; argv[]=stoker --config FILE run ; … }.
func configOf(execStart string) string {
	_, rest, _ := strings.Cut(execStart, " --config ")
	file, _, _ := strings.Cut(rest, " run ;")
	if unquoted, err := strconv.Unquote(file); err == nil {
		return unquoted
	}
	return file
}

// Status asks systemd itself: kardianos takes a service that is on its way down for one that is not installed.
func (s *Service) Status() (*Status, error) {
	if err := s.booted(); err != nil {
		return nil, err
	}
	p, err := s.show("LoadState", "FragmentPath", "UnitFileState", "ActiveState", "SubState", "Result", "ExecMainStatus", "StatusText",
		"MainPID", "ActiveEnterTimestamp", "NRestarts")
	if err != nil {
		return nil, err
	}
	status := &Status{
		Installed: p["LoadState"] != "not-found", Unit: p["FragmentPath"], Enabled: p["UnitFileState"], State: p["ActiveState"],
		Detail: p["SubState"], Text: p["StatusText"], Since: p["ActiveEnterTimestamp"],
	}
	status.PID, _ = strconv.Atoi(p["MainPID"])
	status.Restarts, _ = strconv.Atoi(p["NRestarts"])
	if why := whyEnded(p["Result"], p["ExecMainStatus"]); status.Detail == status.State {
		status.Detail = why
	} else if why != "" {
		status.Detail += ", " + why
	}
	return status, nil
}

// whyEnded is systemd's result of a service in words, "" of a success.
func whyEnded(result, code string) string {
	switch result {
	case "success":
		return ""
	case "exit-code":
		if code == badConfig {
			return "the configuration is wrong, exit code " + code
		}
		return "it ended with exit code " + code
	case "signal", "core-dump":
		return "it was killed by signal " + code
	case "timeout":
		return "it took too long to start or to stop"
	case "watchdog":
		return "it hung, and the watchdog ended it"
	case "oom-kill":
		return "the kernel killed it because memory ran out"
	}
	return result
}

// badConfig is stoker's exit code for a wrong configuration, with which systemd does not start it again.
const badConfig = "78"

// show asks systemd for properties of the unit.
func (s *Service) show(properties ...string) (map[string]string, error) {
	args := s.arguments("systemctl", "show", unitName, "--property="+strings.Join(properties, ","))
	out, err := exec.Command(args[0], args[1:]...).Output()
	if err != nil {
		return nil, s.failed("status", err)
	}
	p := map[string]string{}
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		p[key] = value
	}
	return p, nil
}

// mayChange says why the service cannot be changed from here.
func (s *Service) mayChange(action string) error {
	if s.o.DryRun {
		return nil
	}
	if err := s.booted(); err != nil {
		return err
	}
	if !s.o.User && os.Geteuid() != 0 {
		return &Error{Kind: ErrNotRoot, Message: action + ": only root can change the system's services",
			Hint: fmt.Sprintf("'sudo stoker service %s', or 'stoker service %s --user' for one of your own", action, action)}
	}
	return nil
}

// booted says why systemd cannot be asked.
func (s *Service) booted() error {
	if _, err := os.Stat("/run/systemd/system"); err != nil { // as sd_booted(3)
		return &Error{Kind: ErrUnsupported, Message: "systemd does not run here", Hint: withoutService}
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); s.o.User {
		if _, err := os.Stat(filepath.Join(dir, "systemd")); dir == "" || err != nil {
			return &Error{Kind: ErrUnsupported, Message: "you have no service manager of your own in this session",
				Hint: "log in as yourself: sudo and su start none"}
		}
	}
	return nil
}

func (s *Service) notInstalled(action string) error {
	return &Error{Kind: ErrNotInstalled, Message: action + ": the service is not installed", Hint: "'stoker service install" + s.flag() + "' does it"}
}

func (s *Service) flag() string {
	if s.o.User {
		return " --user"
	}
	return ""
}

// failed says what became of the service when err is not nil: systemctl's own words are not in it.
func (s *Service) failed(action string, err error) error {
	if err == nil {
		return nil
	}
	e := &Error{Kind: ErrFailed, Message: action + " " + unitName, Err: err, Hint: strings.Join(s.arguments("journalctl", "-e", "-u", name), " ") + " shows why"}
	if action == "status" {
		return e
	}
	if status, statusErr := s.Status(); statusErr == nil {
		e.Message += ": " + status.State
		if status.Detail != "" {
			e.Message += ": " + status.Detail
		}
		e.Err = nil
	}
	return e
}

// packaged returns the unit of a package; the system's own service would hide it.
func (s *Service) packaged() string {
	if s.o.User {
		return ""
	}
	for _, dir := range []string{"/usr/lib/systemd/system", "/lib/systemd/system"} {
		path := filepath.Join(dir, unitName)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return ""
}

// UnitFile returns the path of the unit, "" if there is none.
func (s *Service) UnitFile() string {
	if path, err := s.unitPath(); err == nil {
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	return s.packaged()
}

// unitPath is where kardianos puts the unit.
func (s *Service) unitPath() (string, error) {
	if !s.o.User {
		return filepath.Join("/etc/systemd/system", unitName), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("find your units: %w", err)
	}
	return filepath.Join(home, ".config/systemd/user", unitName), nil
}

// file writes a file, unless it holds the text already.
func (s *Service) file(path, text string) []step {
	old, err := os.ReadFile(path)
	if err == nil && string(old) == text {
		return nil
	}
	says := "write " + path
	if err == nil {
		says += ", which differs"
	}
	return []step{{says: says, text: text, do: func() error {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("write %s: %w", path, err)
		}
		return durable.WriteFile(durable.Local{}, path, []byte(text), 0o644)
	}}}
}

func remove(path string) step {
	return step{says: "remove " + path, do: func() error {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("uninstall: %w", err)
		}
		return nil
	}}
}

// systemctl runs systemctl, for the user's own manager if that is meant.
func (s *Service) systemctl(args ...string) step {
	return command(s.arguments("systemctl", args...)...)
}

// arguments is a command line of one of systemd's programs that knows --user.
func (s *Service) arguments(program string, args ...string) []string {
	if s.o.User {
		return append([]string{program, "--user"}, args...)
	}
	return append([]string{program}, args...)
}

// command runs a program; an error has what it said.
func command(args ...string) step {
	line := strings.Join(args, " ")
	return step{says: "run " + line, do: func() error {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err != nil {
			return &Error{Kind: ErrFailed, Message: "run " + line, Err: fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))}
		}
		return nil
	}}
}
