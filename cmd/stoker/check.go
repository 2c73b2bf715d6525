package main

import (
	"github.com/spf13/cobra"

	"stoker/store/batchfile/check"
)

// shownProblems is how many bad lines of a file are shown without --all.
const shownProblems = 100

func newCheckCommand(a *app) *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use:   "check FILE...",
		Short: "Validate batch files without running them",
		Long: `Check reads batch files as the inbox would, .gz and .zst included ("-" is standard
input), and shows each line that is not valid:

    FILE:LINE:COL: code: message

then counts by form and URL. What the engine thinks of a request's parameters shows only
when it runs. It exits with 0 if every line is valid, with 3 if some are not, and with 1
if a file cannot be read.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, paths []string) error {
			loaded, err := a.loadConfig(nil)
			if err != nil {
				return err
			}
			shown := shownProblems
			if all {
				shown = 0
			}
			var printer check.Printer = check.NewText(a.stdout, shown)
			if asJSON {
				printer = check.NewJSON(a.stdout, shown)
			}
			opts := check.Options{MaxLine: int(loaded.Inbox.MaxLine)}
			ok, err := check.Files(cmd.Context(), paths, a.stdin, opts, printer)
			if err == nil && !ok {
				return &exitError{code: exitSomeFailed} // the report has told why
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "show every bad line, not only the first 100 of a file")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	return cmd
}
