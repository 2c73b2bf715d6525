package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"stoker/daemon/api"
	"stoker/daemon/config"
	"stoker/store"
	"stoker/store/batchfile/check"
)

// states are those of a batch, in the order in which it passes them.
func states() []store.State {
	return []store.State{store.Validating, store.InProgress, store.Finalizing, store.Completed, store.Failed}
}

func newListCommand(a *app) *cobra.Command {
	var asJSON bool
	var state string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List batches, oldest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if state != "" && !slices.Contains(append(states(), "expired", "cancelling", "cancelled"), store.State(state)) { // OpenAI's, too
				return &usageError{fmt.Errorf("%q is no state", state)}
			}
			return a.withSource(cmd.Context(), func(src api.Source, _ *config.Loaded) error {
				list, err := src.Batches(cmd.Context(), store.State(state))
				if err != nil {
					return err
				}
				if asJSON {
					return a.writeJSON(list)
				}
				return a.writeList(list)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	cmd.Flags().StringVar(&state, "state", "", "only batches in this state: validating, in_progress, finalizing, completed, failed")
	return cmd
}

func (a *app) writeList(list *api.Batches) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATE\tDONE\tFAILED\tREQUESTS\tQUEUE\tNAME\tCREATED")
	for _, b := range list.Batches {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\n", b.ID, b.State, b.Completed, b.Failed, b.Requests, check.Printable(b.Queue), check.Printable(b.Name), localTime(b.CreatedAt))
	}
	return w.Flush()
}

func newShowCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "Show one batch",
		Long:  "Show one batch. ID is a batch id, the beginning of one, or an input's name, whose newest batch it is.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSource(cmd.Context(), func(src api.Source, loaded *config.Loaded) error {
				id, err := a.resolve(cmd.Context(), src, args[0])
				if err != nil {
					return err
				}
				b, err := src.Batch(cmd.Context(), id)
				if err != nil {
					return err
				}
				if asJSON {
					return a.writeJSON(b)
				}
				return a.writeBatch(b, loaded)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	return cmd
}

// changedNote is what users must know of a file that grew after it was taken.
const changedNote = "the file was written to after it was taken; what came later did not run"

func (a *app) writeBatch(b *api.Batch, loaded *config.Loaded) error {
	w := tabwriter.NewWriter(a.stdout, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, name+"\t"+format+"\n", args...) }
	row("id", "%s", b.ID)
	row("state", "%s", b.State)
	if b.Reason != "" {
		row("reason", "%s", check.Printable(b.Reason))
	}
	if b.Refused != nil {
		row("refused", "%s: %s", b.Refused.Code, check.Printable(b.Refused.Message))
	}
	row("input", "%s, %s, sha256 %s", check.Printable(b.InputName), humanize.IBytes(uint64(b.InputBytes)), b.InputSHA256)
	if b.Changed {
		row("note", "%s", changedNote)
	}
	if b.Queue != "" {
		row("queue", "%s", check.Printable(b.Queue))
	}
	row("requests", "%d: %d completed, %d failed, %d run again after a crash", b.Requests, b.Completed, b.Failed, b.Redone)
	row("tokens", "%d in, %d out", b.PromptTokens, b.CompletionTokens)
	for _, e := range b.Engines {
		row("engine", "%s %s, model %s", e.Kind, e.Version, e.Model)
	}
	for _, t := range []struct {
		name string
		at   time.Time
	}{{"created", b.CreatedAt}, {"begun", b.InProgressAt}, {"finalizing", b.FinalizingAt}, {"ended", b.EndedAt}} {
		if !t.at.IsZero() {
			row(t.name, "%s", localTime(t.at))
		}
	}
	if b.State.Ended() {
		for _, path := range resultPaths(loaded.Paths.Outbox, b) {
			row("results", "%s", check.Printable(path))
		}
	}
	return w.Flush()
}

// resultPaths are where the files of an ended batch are, those that it has.
func resultPaths(outbox string, b *api.Batch) []string {
	base := filepath.Join(outbox, b.Queue, string(b.Published))
	var paths []string
	if b.State == store.Completed {
		paths = append(paths, base+store.SuffixOutput)
	}
	if b.Failed > 0 {
		paths = append(paths, base+store.SuffixErrors)
	}
	return append(paths, base+store.SuffixBatch)
}
