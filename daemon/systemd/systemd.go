// Package systemd tells the service manager how stoker is (sd_notify(3)). Where none listens, nothing is told.
package systemd

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/rs/zerolog"
)

// Notifier tells systemd. A nil one tells nobody.
type Notifier struct {
	watchdog time.Duration
	log      zerolog.Logger
	failed   atomic.Bool // telling it; it was said
}

// New returns a Notifier for whoever $NOTIFY_SOCKET names.
func New(log zerolog.Logger) *Notifier {
	watchdog, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn().Err(err).Msg("there will be no watchdog")
	}
	return &Notifier{watchdog: watchdog, log: log}
}

// WatchdogInterval is how long systemd waits between two calls of Alive; 0: it does not expect any.
func (n *Notifier) WatchdogInterval() time.Duration {
	if n == nil {
		return 0
	}
	return n.watchdog
}

// Ready tells that stoker is up, or has dealt with a reload.
func (n *Notifier) Ready() { n.send(daemon.SdNotifyReady) }

// Reloading tells that the configuration is being read; Ready must follow.
func (n *Notifier) Reloading() {
	n.send(daemon.SdNotifyReloading + "\n" + strings.TrimSuffix(daemon.SdNotifyMonotonicUsec(), "\n"))
}

// Stopping tells that stoker ends.
func (n *Notifier) Stopping() { n.send(daemon.SdNotifyStopping) }

// Alive tells that nothing hangs.
func (n *Notifier) Alive() { n.send(daemon.SdNotifyWatchdog) }

// Status is the line that `systemctl status` shows.
func (n *Notifier) Status(line string) { n.send("STATUS=" + oneLine(line)) }

// maxStatus is how much of a line is told, in bytes: systemd drops messages over 4 KiB, as it does those that are no UTF-8.
const maxStatus = 1000

// oneLine is a text as systemd takes it.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "\uFFFD")), " ")
	if len(text) <= maxStatus {
		return text
	}
	cut := maxStatus
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}

const (
	// extension is how much more time is asked for at once. A start or a stop that hangs lasts so much longer.
	extension   = 30 * time.Second
	extendEvery = extension / 3
)

// Extend asks for more time to start or to stop, over and over until done is closed, or until the limit.
func (n *Notifier) Extend(done <-chan struct{}, limit time.Duration) {
	if n == nil {
		return
	}
	tick := time.NewTicker(extendEvery)
	defer tick.Stop()
	end := time.After(limit)
	for {
		n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extension.Microseconds()))
		select {
		case <-done:
			return
		case <-end:
			n.log.Warn().Float64("seconds", limit.Seconds()).Msg("this takes too long; asking systemd for no more time")
			return
		case <-tick.C:
		}
	}
}

func (n *Notifier) send(state string) {
	if n == nil {
		return
	}
	_, err := daemon.SdNotify(false, state)
	switch {
	case err == nil:
		n.failed.Store(false)
	case !n.failed.Swap(true):
		n.log.Warn().Err(err).Msg("cannot notify systemd")
	}
}

// WithoutOurs is an environment without what systemd has put there for stoker alone: who inherits it would speak for it.
func WithoutOurs(environ []string) []string {
	ours := []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
	return slices.DeleteFunc(slices.Clone(environ), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(ours, name)
	})
}
