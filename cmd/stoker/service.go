package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"stoker/daemon/api"
	"stoker/daemon/config"
	"stoker/engine/pyenv"
	"stoker/packaging"
	"stoker/packaging/service"
	"stoker/store/batchfile/check"
)

// serviceFlags are common to the commands of `stoker service`.
type serviceFlags struct {
	user, dryRun, json bool
}

func newServiceCommand(a *app) *cobra.Command {
	var f serviceFlags
	cmd := &cobra.Command{
		Use:   "service",
		Short: "Install stoker as a service of the system, and control it",
		Long: `Service makes stoker start with the system, by systemd. The service runs as the user stoker and takes its
configuration from --config, else from /etc/stoker/config.toml.

With --user it is a service of your own instead, which needs no root. It runs as you and takes its configuration from
--config, else from ~/.config/stoker/config.toml.

Packages bring the service along: there 'systemctl enable --now stoker' is all.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().BoolVar(&f.user, "user", false, "a service of your own instead of the system's")
	install := &cobra.Command{
		Use:   "install",
		Short: "Install the service, or bring it up to date",
		Long: `Install makes the user stoker, its folders and a first configuration, writes the unit and has systemd start it with the
system. It starts nothing now: a model is to be named first.

Run it again with a newer stoker: what differs is replaced, but never the configuration, and a service that runs is
restarted if its unit or its program has changed.`,
		RunE: func(*cobra.Command, []string) error { return a.installService(&f) },
	}
	uninstall := &cobra.Command{
		Use:   "uninstall",
		Short: "Stop and remove the service, but no data",
		RunE:  func(*cobra.Command, []string) error { return a.uninstallService(&f) },
	}
	for _, c := range []*cobra.Command{install, uninstall} {
		c.Flags().BoolVar(&f.dryRun, "dry-run", false, "show the files that would be written and the commands that would run, and do nothing")
	}
	status := &cobra.Command{
		Use:   "status",
		Short: "Show what the service manager knows; 'stoker status' asks the daemon",
		Long:  "Status exits with 10 if the service does not run, and with 1 if it failed or is not installed.",
		RunE:  func(*cobra.Command, []string) error { return a.showService(&f) },
	}
	status.Flags().BoolVar(&f.json, "json", false, "write one JSON object")
	cmd.AddCommand(install, uninstall,
		a.newServiceControl(&f, "start", "Start the service", (*service.Service).Start),
		a.newServiceControl(&f, "stop", "Stop the service: requests in flight may finish", (*service.Service).Stop),
		a.newServiceControl(&f, "restart", "Stop the service and start it again", (*service.Service).Restart),
		status)
	for _, c := range cmd.Commands() {
		c.Args = cobra.NoArgs
	}
	return cmd
}

func (a *app) newServiceControl(f *serviceFlags, use, short string, act func(*service.Service) error) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, RunE: func(*cobra.Command, []string) error {
		s, _, err := a.service(f)
		if err != nil {
			return err
		}
		return act(s)
	}}
}

// service is the service that the flags mean, and the path of its configuration.
func (a *app) service(f *serviceFlags) (*service.Service, string, error) {
	if a.root != "" {
		return nil, "", &usageError{errors.New("a service takes its folders from its configuration: name one with --config, instead of --root")}
	}
	if f.user && os.Geteuid() == 0 && a.variable("SUDO_USER") != "" {
		return nil, "", &usageError{errors.New("--user means you: without sudo")}
	}
	path, err := a.serviceConfig(f)
	if err != nil {
		return nil, "", err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	return service.New(service.Options{
		User: f.user, Executable: executable, Config: path, DryRun: f.dryRun, Out: a.stdout, Check: a.checkBeforeStart(f.user),
	}), path, nil
}

// checkBeforeStart finds what would keep a service from starting, as the service would read its configuration. Until it is
// right the service stays as it is.
func (a *app) checkBeforeStart(own bool) func(string) error {
	environ := []string{"HOME=" + packaging.Home}
	if own {
		environ = []string{"HOME=" + a.variable("HOME")}
	}
	return func(path string) error {
		loaded, err := config.Load(config.Options{Path: path, Environ: environ})
		if err == nil {
			err = loaded.CheckRunnable()
		}
		if err == nil {
			return nil
		}
		if e, ok := errors.AsType[*config.Error](err); ok && e.File == "" {
			e.File = path
		}
		fmt.Fprintln(a.stderr, "stoker: note: with this configuration it could not start, so the service stays as it is")
		return err
	}
}

func (a *app) serviceConfig(f *serviceFlags) (string, error) {
	if a.configPath != "" {
		return filepath.Abs(a.configPath)
	}
	return service.ConfigPath(f.user)
}

func (a *app) installService(f *serviceFlags) error {
	s, path, err := a.service(f)
	if err != nil {
		return err
	}
	if executable, err := os.Executable(); err == nil && !f.user && !f.dryRun && !pyenv.ReachableByOthers(executable) {
		return &exitError{code: exitFailure, err: fmt.Errorf("install: the service's user cannot reach %s", executable),
			hint: fmt.Sprintf("'sudo install %s /usr/local/bin/stoker', then '/usr/local/bin/stoker service install'", executable)}
	}
	before, _ := s.Status() // where it cannot be told, Install says so
	if err := s.Install(); err != nil || f.dryRun {
		return err
	}
	if before != nil && before.Running() {
		return a.tellUpgrade(s, before)
	}
	return a.adviseAfterInstall(f, path)
}

// tellUpgrade says what became of a service that ran before.
func (a *app) tellUpgrade(s *service.Service, before *service.Status) error {
	after, err := s.Status()
	if err != nil {
		return err
	}
	if after.PID == before.PID {
		fmt.Fprintln(a.stdout, "the service runs, and is up to date: nothing was restarted")
	} else {
		fmt.Fprintf(a.stdout, "the service was upgraded and restarted, and runs: stoker %s\n", version())
	}
	return nil
}

// adviseAfterInstall says what is missing until the service can run.
func (a *app) adviseAfterInstall(f *serviceFlags, path string) error {
	loaded, err := config.Load(config.Options{Path: path, Environ: a.environ})
	if err != nil {
		return err
	}
	sudo, flag := "sudo ", ""
	if f.user {
		sudo, flag = "", " --user"
		a.noteUnwritable(loaded)
		a.noteLinger()
	}
	if err := loaded.CheckRunnable(); err != nil {
		fmt.Fprintf(a.stdout, "next: '%sstoker setup' makes a Python environment with vLLM, and %s wants a model\n", sudo, path)
	}
	fmt.Fprintf(a.stdout, "then: '%sstoker service start%s', and drop files into %s\n", sudo, flag, loaded.Paths.Inbox)
	return nil
}

// noteUnwritable tells of folders that a service of one's own can neither write to nor make.
func (a *app) noteUnwritable(loaded *config.Loaded) {
	p := &loaded.Paths
	for _, folder := range []string{p.Inbox, p.Outbox, p.Archive, p.State} {
		there := folder
		for there != "/" {
			if _, err := os.Stat(there); err == nil {
				break
			}
			there = filepath.Dir(there)
		}
		if unix.Access(there, unix.W_OK) != nil {
			fmt.Fprintf(a.stderr, "stoker: note: you cannot write to %s: set [paths] in %s\n", folder, loaded.File)
		}
	}
}

// noteLinger tells how a user's service runs while the user is away.
func (a *app) noteLinger() {
	who, err := user.Current()
	if err != nil {
		return
	}
	if _, err := os.Stat(filepath.Join("/var/lib/systemd/linger", who.Username)); err != nil {
		fmt.Fprintln(a.stderr, "stoker: note: it runs while you are logged in; 'loginctl enable-linger' has it run from the system's start on")
	}
}

func (a *app) uninstallService(f *serviceFlags) error {
	s, path, err := a.service(f)
	if err != nil {
		return err
	}
	if err := s.Uninstall(); err != nil || f.dryRun {
		return err
	}
	left := []string{path}
	if loaded, err := config.Load(config.Options{Path: path, Environ: a.environ}); err == nil {
		p := &loaded.Paths
		left = append(left, p.Inbox, p.Outbox, p.Archive, p.State)
	}
	if !f.user {
		left = append(left, "/var/cache/stoker")
	}
	for _, path := range left {
		if _, err := os.Stat(path); err == nil {
			fmt.Fprintf(a.stdout, "left %s\n", path)
		}
	}
	if !f.user {
		fmt.Fprintln(a.stdout, "left the user stoker, who owns them")
	}
	return nil
}

func (a *app) showService(f *serviceFlags) error {
	s, _, err := a.service(f)
	if err != nil {
		return err
	}
	status, err := s.Status()
	if err != nil {
		return err
	}
	if f.json {
		err = a.writeJSON(struct {
			SchemaVersion int `json:"schema_version"`
			*service.Status
		}{api.SchemaVersion, status})
	} else {
		a.writeService(status)
	}
	switch {
	case err != nil:
		return err
	case !status.Installed || status.State == "failed":
		return &exitError{code: exitFailure}
	case !status.Running():
		return &exitError{code: exitNotRunning}
	}
	return nil
}

func (a *app) writeService(s *service.Status) {
	if !s.Installed {
		fmt.Fprintln(a.stdout, "service  not installed")
		return
	}
	fmt.Fprintf(a.stdout, "service  %s", s.State)
	if s.Detail != "" {
		fmt.Fprintf(a.stdout, " (%s)", s.Detail)
	}
	fmt.Fprintf(a.stdout, ", %s", s.Enabled)
	if s.PID != 0 {
		fmt.Fprintf(a.stdout, ", pid %d, since %s", s.PID, s.Since)
	}
	if s.Restarts > 0 {
		fmt.Fprintf(a.stdout, ", restarted %d times", s.Restarts)
	}
	fmt.Fprintln(a.stdout)
	if s.Text != "" && s.Running() {
		fmt.Fprintf(a.stdout, "says     %s\n", check.Printable(s.Text))
	}
	fmt.Fprintf(a.stdout, "unit     %s\n", s.Unit)
}
