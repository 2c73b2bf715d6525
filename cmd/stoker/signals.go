package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/rs/zerolog"

	"stoker/daemon"
	"stoker/daemon/config"
)

// signals are those that `stoker run` answers. They are noted from its start on, and answered once it runs: before they are
// noted, one would end it.
type signals struct {
	hangup, progress chan os.Signal
	abort            <-chan struct{} // closed by a signal that comes after the one that ends ctx
}

func listen(ctx context.Context) *signals {
	s := &signals{make(chan os.Signal, 1), make(chan os.Signal, 1), secondSignal(ctx, os.Interrupt, syscall.SIGTERM)}
	signal.Notify(s.hangup, syscall.SIGHUP)
	signal.Notify(s.progress, syscall.SIGUSR1)
	return s
}

// answer answers SIGHUP and SIGUSR1 until ctx ends. They are ignored from then on.
func (s *signals) answer(ctx context.Context, d *daemon.Daemon, log zerolog.Logger, read func() (*config.Config, error)) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.hangup:
			d.Reload(read)
		case <-s.progress:
			logProgress(ctx, d, log)
		}
	}
}

// logProgress logs one line that tells how far everything is.
func logProgress(ctx context.Context, d *daemon.Daemon, log zerolog.Logger) {
	<-d.Running()
	s, err := d.Status(ctx)
	if err != nil {
		log.Error().Err(err).Msg("cannot tell the progress")
		return
	}
	log.WithLevel(zerolog.NoLevel).Msg(summary(s))
}

// endedByHangup also ends ctx by SIGHUP, which a terminal sends that is closed, unless whoever started stoker has it ignored
// (nohup). The channel is that of secondSignal.
func endedByHangup(ctx context.Context) (context.Context, <-chan struct{}) {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if signal.Ignored(syscall.SIGHUP) {
		return ctx, secondSignal(ctx, ends...)
	}
	ctx, _ = signal.NotifyContext(ctx, syscall.SIGHUP) // until the process ends
	return ctx, secondSignal(ctx, append(ends, syscall.SIGHUP)...)
}

// secondSignal returns a channel that is closed by a signal that comes after ctx has ended by one of these. A second SIGHUP
// is none: the terminal and the shell may send one each.
func secondSignal(ctx context.Context, ends ...os.Signal) <-chan struct{} {
	abort := make(chan struct{})
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, ends...)
	go func() {
		<-ctx.Done()
		<-signals // the first one, which ended ctx, arrives here too
		for sig := range signals {
			if sig != syscall.SIGHUP {
				close(abort)
				return
			}
		}
	}()
	return abort
}
