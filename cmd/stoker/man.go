package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func newManCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "man [FOLDER]",
		Short: "Show stoker's manual page, or write those of all commands",
		Long: `Man writes the manual page of stoker to stdout, for a reader such as 'man -l -'. With a folder it writes a page for
each command into it, as the packages hold them.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cmd.Root().DisableAutoGenTag = true // a page without a date is the same each time
			header := &doc.GenManHeader{Section: "1", Source: "stoker " + version(), Manual: "stoker"}
			if len(args) == 0 {
				return doc.GenMan(cmd.Root(), header, a.stdout)
			}
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("write manual pages: %w", err)
			}
			return doc.GenManTree(cmd.Root(), header, args[0])
		},
	}
}
