package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"stoker/daemon/api"
	"stoker/daemon/config"
	"stoker/daemon/dispatch"
	"stoker/daemon/inbox"
	"stoker/engine"
	"stoker/store"
	"stoker/store/batchfile/check"
)

func newStatusCommand(a *app) *cobra.Command {
	var asJSON, watch bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the daemon, the engine, running batches, and why files wait",
		Long: `Status asks the daemon. Without one it shows what the state folder holds and exits with 10. It exits with 1 if the
engine is down for good.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			write := a.statusWriter(asJSON, watch)
			if watch {
				return a.watchStatus(cmd.Context(), write)
			}
			return a.showStatus(cmd.Context(), write)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again each second, until Ctrl-C")
	return cmd
}

type statusWriter func(*api.Status, *config.Loaded) error

// statusWriter writes a report as it was asked for. One that is watched is a stream, each line of which says what it is.
func (a *app) statusWriter(asJSON, watch bool) statusWriter {
	switch {
	case asJSON && watch:
		return func(s *api.Status, _ *config.Loaded) error {
			return a.writeJSON(struct {
				Type string `json:"type"`
				*api.Status
			}{"status", s})
		}
	case asJSON:
		return func(s *api.Status, _ *config.Loaded) error { return a.writeJSON(s) }
	}
	clear := ""
	if watch && isTerminal(a.stdout) {
		clear = "\x1b[H\x1b[2J"
	}
	return func(s *api.Status, loaded *config.Loaded) error {
		fmt.Fprint(a.stdout, clear)
		writeStatus(a.stdout, s, loaded)
		return nil
	}
}

func (a *app) showStatus(ctx context.Context, write statusWriter) error {
	return a.withSource(ctx, func(src api.Source, loaded *config.Loaded) error {
		s, err := src.Status(ctx)
		if err == nil {
			err = write(s, loaded)
		}
		switch {
		case err != nil:
			return err
		case !s.Running:
			a.noteHidden(loaded)
			a.complain("hint", a.howToStart())
			return &exitError{code: exitNotRunning}
		case s.Engine.State == engine.Failed:
			return &exitError{code: exitFailure}
		}
		return nil
	})
}

const watchEvery = time.Second

func (a *app) watchStatus(ctx context.Context, write statusWriter) error {
	for {
		err := a.showStatus(ctx, write)
		if _, exits := errors.AsType[*exitError](err); err != nil && !exits {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchEvery):
		}
	}
}

// writeStatus writes the report for people.
func writeStatus(w io.Writer, s *api.Status, loaded *config.Loaded) {
	if s.Running {
		state := "running"
		if s.Draining {
			state = "stopping"
		}
		fmt.Fprintf(w, "daemon   %s, pid %d, version %s, since %s\n", state, s.PID, s.Version, localTime(s.StartedAt))
		writeEngine(w, s.Engine)
	} else {
		fmt.Fprintln(w, "daemon   not running")
	}
	fmt.Fprintf(w, "inbox    %s%s\n", loaded.Paths.Inbox, inboxState(s.Inbox))
	fmt.Fprintf(w, "batches  %s\n", countText(s.Batches))
	writeReload(w, s.Reload)
	for _, b := range s.BadRecords {
		fmt.Fprintf(w, "damaged  %s; 'stoker verify' says what can be done\n", b.Reason)
	}
	for _, f := range s.Storage {
		fmt.Fprintf(w, "storage  %s\n", check.Printable(storageText(&f)))
		if hint := letIn(&f, s.PID); hint != "" {
			fmt.Fprintf(w, "         hint: %s\n", hint)
		}
	}
	if s.Dispatch != nil {
		writeRunning(w, s.Dispatch)
	}
	if s.Inbox != nil {
		writeWaiting(w, "waiting", s.Inbox.Waiting)
		writeWaiting(w, "ignored", s.Inbox.Ignored)
		for _, f := range s.Inbox.Foreign {
			fmt.Fprintf(w, "foreign  stoker %s holds %d claimed files here\n", check.Printable(f.Instance), f.Claims)
		}
	}
}

// writeReload says what is not in effect of the configuration that was read last.
func writeReload(w io.Writer, r *api.Reload) {
	if r == nil {
		return
	}
	for _, reason := range r.Refused {
		fmt.Fprintf(w, "config   refused at %s, everything is as before: %s\n", localTime(r.At), check.Printable(reason))
	}
	if len(r.Waiting) > 0 {
		fmt.Fprintf(w, "config   takes effect at the next start: %s\n", check.Printable(strings.Join(r.Waiting, ", ")))
	}
}

// writeEngine tells of the engine, and if it has several replicas of each of them.
func writeEngine(w io.Writer, e *engine.Status) {
	if len(e.Replicas) == 0 {
		writeReplica(w, "engine", e)
		return
	}
	ready := 0
	for i := range e.Replicas {
		if e.Replicas[i].State == engine.Ready {
			ready++
		}
	}
	fmt.Fprintf(w, "engine   %d of %d replicas ready, %d of %d in flight, %.0f tok/s\n", ready, len(e.Replicas), e.InFlight, e.Capacity, e.OutputRate)
	for i := range e.Replicas {
		writeReplica(w, fmt.Sprintf("  %d", i+1), &e.Replicas[i])
	}
}

func writeReplica(w io.Writer, name string, e *engine.Status) {
	tell := func(format string, args ...any) { fmt.Fprintf(w, "%-8s "+format+"\n", append([]any{name}, args...)...) }
	switch e.State {
	case engine.Ready:
		tell("ready, %s %s, model %s, %d of %d in flight, %.0f tok/s", e.Kind, e.Version, e.Model, e.InFlight, e.Capacity, e.OutputRate)
		if e.Untested {
			fmt.Fprintf(w, "         note: stoker was not tried with this version of %s\n", e.Kind)
		}
	case engine.Loading:
		phase := strings.TrimSpace(cmp.Or(e.Phase, "starting") + " " + e.Detail)
		tell("%s %s", phase, loadingText(e))
	case engine.BackOff:
		what := "died, starts again"
		if e.Shortage != nil {
			what = "waits for memory, tries again"
		}
		tell("%s in %s: %s", what, max(0, time.Until(e.RetryAt)).Round(time.Second), check.Printable(e.Reason))
	case engine.Failed:
		tell("down for good: %s", check.Printable(e.Reason))
	default:
		tell("%s", cmp.Or(waitText(e), string(e.State)))
	}
	if e.Hint != "" && e.State != engine.Ready {
		fmt.Fprintf(w, "         hint: %s\n", e.Hint)
	}
	if e.State == engine.Failed {
		fmt.Fprintln(w, "         once that is mended, start stoker again: the engine is not tried again before")
	}
	if e.State == engine.BackOff || e.State == engine.Failed {
		for _, line := range e.LogTail {
			fmt.Fprintf(w, "         | %s\n", line)
		}
	}
	if e.Restarts > 0 {
		fmt.Fprintf(w, "         started again %d times\n", e.Restarts)
	}
}

// waitText says for whom a replica waits that has no worker yet, and for how long; "" if it does not wait.
func waitText(e *engine.Status) string {
	if e.Phase != engine.WaitPhase {
		return ""
	}
	return e.Phase + " " + e.Detail + " " + clock(time.Since(e.PhaseSince).Seconds())
}

// loadingText says how long the phase that the engine is in lasts, and the start in all, and how long they took the last time.
func loadingText(e *engine.Status) string {
	var phase, all engine.Phase
	for _, p := range e.Phases {
		if p.Name == cmp.Or(e.Phase, engine.FirstPhase) {
			phase = p
		}
		all.Seconds += p.Seconds
		all.LastSeconds += p.LastSeconds
	}
	return durations(phase) + "; in all " + durations(all)
}

func durations(p engine.Phase) string {
	text := clock(p.Seconds)
	if p.LastSeconds > 0 {
		text += ", last time " + clock(p.LastSeconds)
	}
	return text
}

// clock writes a duration as minutes and seconds.
func clock(seconds float64) string { return fmt.Sprintf("%d:%02d", int(seconds)/60, int(seconds)%60) }

// storageText says what is wrong with a folder, and what waits for it.
func storageText(s *api.Storage) string {
	text := s.Reason
	if s.Kind == api.Full || s.Kind == api.Failing {
		text = s.Name + ": " + text
	}
	if len(s.Waits) > 0 {
		text += "; for it wait: " + strings.Join(s.Waits, ", ")
	}
	return text
}

func inboxState(s *inbox.Status) string {
	switch {
	case s == nil:
		return ""
	case s.Problem != "":
		return ", cannot be read: " + check.Printable(s.Problem)
	case s.Watching:
		return ", watched"
	}
	return ", polled"
}

func countText(n map[store.State]int) string {
	var parts []string
	for _, state := range states() {
		if n[state] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[state], state))
		}
	}
	if len(parts) == 0 {
		return "none yet"
	}
	return strings.Join(parts, ", ")
}

// maxShown bounds the rows of a section; --json has all.
const maxShown = 20

func writeRunning(w io.Writer, s *dispatch.Snapshot) {
	if s.Isolating {
		fmt.Fprintln(w, "engine   finding the request that brings it down")
	}
	for i, r := range s.Running {
		if i == maxShown {
			fmt.Fprintf(w, "running  … and %d more\n", len(s.Running)-i)
			break
		}
		fmt.Fprintf(w, "running  %s\n", runningText(&r))
	}
	if len(s.Waiting) > 0 {
		fmt.Fprintf(w, "queued   %d accepted batches wait for others to end\n", len(s.Waiting))
	}
	for _, u := range s.Unreadable {
		fmt.Fprintf(w, "damaged  %s: %s\n", u.ID, u.Reason)
	}
}

func runningText(r *dispatch.Running) string {
	done := r.Completed + r.Failed
	text := fmt.Sprintf("%s %s %s of %s", check.Printable(r.Name), bar(done, r.Requests), humanize.Comma(int64(done)), humanize.Comma(int64(r.Requests)))
	if r.Failed > 0 {
		text += fmt.Sprintf(", %d failed", r.Failed)
	}
	if r.Rate > 0 {
		text += fmt.Sprintf(", %.1f/s", r.Rate)
	}
	if r.ETASeconds > 0 {
		text += ", ready in " + (time.Duration(r.ETASeconds) * time.Second).String()
	}
	if r.Reason != "" {
		text += ", waits: " + check.Printable(r.Reason)
	}
	return text
}

const barWidth = 24

func bar(done, total uint32) string {
	n := barWidth
	if total > 0 {
		n = int(uint64(done) * barWidth / uint64(total))
	}
	return "[" + strings.Repeat("#", n) + strings.Repeat("-", barWidth-n) + "]"
}

func writeWaiting(w io.Writer, title string, files []inbox.Waiting) {
	for i, f := range files {
		if i == maxShown {
			fmt.Fprintf(w, "%s  … and %d more\n", title, len(files)-i)
			return
		}
		path := f.Name.String()
		if f.Queue != "" {
			path = f.Queue + "/" + path
		}
		fmt.Fprintf(w, "%s  %q %s: %s\n", title, path, f.State, check.Printable(f.Reason))
	}
}

func localTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05 -07:00") }

// summary is the status in one line.
func summary(s *api.Status) string {
	text := fmt.Sprintf("engine %s; batches %s", s.Engine.State, countText(s.Batches))
	for i, r := range s.Dispatch.Running {
		if i == 3 {
			return text + "; …"
		}
		text += "; " + runningText(&r)
	}
	return text
}

// harmless returns a text of one or more lines so that it does nothing to the terminal.
func harmless(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = check.Printable(line)
	}
	return strings.Join(lines, "\n")
}
