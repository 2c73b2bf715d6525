package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"stoker/daemon/api"
	"stoker/store"
	"stoker/store/batchfile/check"
)

func newStateCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Mend the state folder",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() }, // cobra would take any word without one
	}
	cmd.AddCommand(newRebuildCommand(a))
	return cmd
}

func newRebuildCommand(a *app) *cobra.Command {
	var asJSON, force bool
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Make a lost or damaged database anew from the batches beside it",
		Long: `Rebuild makes stoker.db anew from the batch folders in the state folder and from what is claimed in the inbox. The old
one is moved aside, never deleted. Batches go on where they were: what their journals hold does not run again, and what
has ended stays ended. No daemon may run. If nothing is wrong it says so and does nothing.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := a.loadConfig(nil)
			if err != nil {
				return err
			}
			report, err := store.Rebuild(cmd.Context(), loaded.Paths.State, folders(loaded), force)
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(&rebuiltReport{api.SchemaVersion, report})
			}
			a.writeRebuilt(report)
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	cmd.Flags().BoolVar(&force, "force", false, "also if nothing is wrong")
	return cmd
}

// rebuiltReport is the report with --json.
type rebuiltReport struct {
	SchemaVersion int `json:"schema_version"`
	*store.Rebuilt
}

func (a *app) writeRebuilt(r *store.Rebuilt) {
	if r.Reason != "" {
		fmt.Fprintf(a.stdout, "wrong     %s\n", r.Reason)
	}
	if !r.Rebuilt {
		fmt.Fprintf(a.stdout, "nothing is wrong with %s; --force makes it anew all the same\n", check.Printable(r.Database))
		return
	}
	if r.Aside != "" {
		fmt.Fprintf(a.stdout, "old       %s\n", check.Printable(r.Aside))
	}
	fmt.Fprintf(a.stdout, "new       %s\n", check.Printable(r.Database))
	if !r.Adopted {
		fmt.Fprintf(a.stdout, "instance  %s, a new one: nothing told the old one, whose claims are left alone\n", r.Instance)
	}
	fmt.Fprintf(a.stdout, "batches   %d: %s; %d of %d requests have their record\n", r.Batches, countText(r.States), r.Records, r.Requests)
	for _, s := range r.Skipped {
		what := "skipped"
		if s.Kept {
			what = "kept"
		}
		fmt.Fprintf(a.stdout, "%-9s %s: %s\n", what, check.Printable(s.Folder), s.Reason)
		if s.Kept {
			fmt.Fprintln(a.stdout, "          what the old database says of it is in the new one; results that are only in its folder cannot be published")
		}
		if s.Blocked {
			fmt.Fprintln(a.stdout, "          put its files back from a copy, or move the folder away: then rebuild with --force; without the folder its claimed file runs again")
		}
	}
	if n := len(r.Claims); n > 0 {
		fmt.Fprintf(a.stdout, "claims    %d claimed files are no batch yet; the next start goes on with them\n", n)
	}
	fmt.Fprintf(a.stdout, "'%s' proves it\n", a.commandLine("verify"))
}
