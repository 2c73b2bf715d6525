package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"stoker/daemon"
	"stoker/daemon/config"
)

func newRunCommand(a *app) *cobra.Command {
	var model string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the daemon in the foreground",
		Long: `Run watches the inbox until SIGTERM or Ctrl-C. Then it takes no more files, lets the requests in flight finish for
up to run.drain, and saves; a second signal saves at once. Killing it at any moment is as safe. SIGUSR1 logs a line
with the progress.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			overrides := map[string]string{}
			if model != "" {
				overrides["engine.model"] = model
			}
			loaded, err := a.loadConfig(overrides)
			if err != nil {
				return err
			}
			return a.runDaemon(cmd.Context(), loaded)
		},
	}
	cmd.Flags().StringVar(&model, "model", "", "model to load, instead of engine.model")
	return cmd
}

func (a *app) runDaemon(ctx context.Context, loaded *config.Loaded) error {
	if err := loaded.CheckRunnable(); err != nil {
		return err
	}
	d, log, err := a.newDaemon(loaded)
	if err != nil {
		return err
	}
	go logProgress(ctx, d, log)
	return d.Run(ctx, secondSignal(ctx))
}

// newDaemon makes a daemon that logs to stderr.
func (a *app) newDaemon(loaded *config.Loaded) (*daemon.Daemon, zerolog.Logger, error) {
	log, err := newLogger(a.stderr, loaded.Log, a.environ)
	if err != nil {
		return nil, log, err
	}
	executable, err := os.Executable()
	if err != nil {
		return nil, log, err
	}
	signal.Ignore(syscall.SIGPIPE) // whoever read the log may go; the batches must not
	d, err := daemon.New(daemon.Options{
		Config: &loaded.Config, ConfigDir: configDir(loaded), Root: a.root, Version: version(), Executable: executable,
		Environ: a.environ, Interactive: isTerminal(a.stderr), Logger: log,
	})
	return d, log, err
}

// secondSignal returns a channel that is closed by a signal that comes after ctx has ended by one.
func secondSignal(ctx context.Context) <-chan struct{} {
	abort := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		<-signals // the first one, which ended ctx, arrives here too
		<-signals
		close(abort)
	}()
	return abort
}

// logProgress answers SIGUSR1.
func logProgress(ctx context.Context, d *daemon.Daemon, log zerolog.Logger) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	defer signal.Stop(signals)
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			<-d.Running()
			if s, err := d.Status(); err == nil {
				log.WithLevel(zerolog.NoLevel).Msg(summary(s))
			}
		}
	}
}
