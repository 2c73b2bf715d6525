package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"stoker/daemon/api"
	"stoker/daemon/config"
	"stoker/store"
	"stoker/store/batchfile/check"
)

func newVerifyCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "verify [ID]",
		Short: "Prove that no line is lost or doubled",
		Long: `Verify proves the invariants of state, journals, outbox and archive, of one batch or of all: every request has exactly
one record, what is checkpointed is there, what was published is what the journal holds and has not changed since, each
input is in one place, the next start can go on, and nothing is left over. Of a batch that runs it proves what is
checkpointed. A result that somebody took away is a note, as is what the next start puts right. It exits with 3 if an
invariant does not hold, and names the file and line.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSource(cmd.Context(), func(src api.Source, _ *config.Loaded) error {
				id := ""
				if len(args) == 1 {
					var err error
					if id, err = a.resolve(cmd.Context(), src, args[0]); err != nil {
						return err
					}
				}
				v, err := src.Verify(cmd.Context(), id)
				if err != nil {
					return err
				}
				if asJSON {
					err = a.writeJSON(v)
				} else {
					a.writeVerification(v)
				}
				if err == nil && !v.OK {
					return &exitError{code: exitSomeFailed}
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	return cmd
}

func (a *app) writeVerification(v *api.Verification) {
	for _, f := range v.Findings {
		kind := "note"
		if !f.Note {
			kind = string(f.Invariant)
		}
		if f.Batch != "" {
			kind += ": " + f.Batch
		}
		parts := slices.DeleteFunc([]string{kind, place(&f), check.Printable(f.Message)}, func(s string) bool { return s == "" })
		fmt.Fprintln(a.stdout, strings.Join(parts, ": "))
	}
	verdict := "ok: every invariant holds"
	if !v.OK {
		verdict = "BROKEN: an invariant does not hold"
	}
	fmt.Fprintf(a.stdout, "%d batches (%d ended), %d requests, %d records, %d lines redone\n%s\n", v.Batches, v.Ended, v.Requests, v.Records, v.Redone, verdict)
}

// place is where a finding is, in the form that editors know if it is a line of the file.
func place(f *store.Finding) string {
	switch file := check.Printable(f.File); {
	case f.Line == 0:
		return file
	case f.OfInput():
		return fmt.Sprintf("%s (line %d of the input)", file, f.Line)
	default:
		return fmt.Sprintf("%s:%d", file, f.Line)
	}
}
