package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"stoker/daemon"
	"stoker/daemon/config"
	"stoker/daemon/systemd"
)

func newRunCommand(a *app) *cobra.Command {
	var model string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon in the foreground",
		Long: `Run watches the inbox until SIGTERM or Ctrl-C. Then it takes no more files, lets the requests in flight finish for
up to run.drain, and saves; a second signal saves at once and kills the worker. Killing it at any moment is as safe. SIGHUP reads the
configuration again and refuses it whole if anything is wrong with it; what changes only at the next start is named in
the log and by status. SIGUSR1 logs a line with the progress.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			signals := listen(cmd.Context())
			overrides := map[string]string{}
			if model != "" {
				overrides["engine.model"] = model
			}
			loaded, err := a.loadConfig(overrides)
			if err != nil {
				return err
			}
			same := *a
			if loaded.File != "" {
				same.configPath = loaded.File // a reload must not find another one while an editor replaces this
			}
			return a.runDaemon(cmd.Context(), signals, loaded, func() (*config.Config, error) {
				again, err := same.loadConfig(overrides)
				if err == nil {
					err = again.CheckRunnable()
				}
				if err != nil {
					return nil, err
				}
				return &again.Config, nil
			})
		},
	}
	cmd.Flags().StringVar(&model, "model", "", "model to load, instead of engine.model")
	return cmd
}

// runDaemon runs until a signal ends ctx. The configuration is read anew when it is to be reloaded.
func (a *app) runDaemon(ctx context.Context, signals *signals, loaded *config.Loaded, read func() (*config.Config, error)) error {
	if err := loaded.CheckRunnable(); err != nil {
		return err
	}
	d, log, err := a.newDaemon(ctx, loaded, systemd.New)
	switch {
	case errors.Is(err, context.Canceled):
		return nil // there was nothing to save
	case err != nil:
		return err
	}
	go signals.answer(ctx, d, log, read)
	return d.Run(ctx, signals.abort)
}

// newDaemon makes, until ctx ends, a daemon that logs to stderr, and tells the service manager about itself if a notifier is made for it.
func (a *app) newDaemon(ctx context.Context, loaded *config.Loaded, notifier func(zerolog.Logger) *systemd.Notifier) (*daemon.Daemon, zerolog.Logger, error) {
	log, level, err := newLogger(a.stderr, loaded.Log, a.environ)
	if err != nil {
		return nil, log, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, log, err
	}
	signal.Ignore(syscall.SIGPIPE) // whoever read the log may go; the batches must not
	d, err := daemon.New(ctx, daemon.Options{
		Config: &loaded.Config, ConfigFile: loaded.File, Root: a.root, Version: version(), Executable: executable,
		Environ: systemd.WithoutOurs(a.environ), Interactive: isTerminal(a.stderr), Logger: log, SetLogLevel: level.set, Systemd: notifier(log),
	})
	return d, log, err
}

// noNotifier is for a daemon that is no service.
func noNotifier(zerolog.Logger) *systemd.Notifier { return nil }
