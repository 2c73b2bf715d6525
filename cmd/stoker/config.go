package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"stoker/daemon/config"
)

func newConfigCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "config",
		Short: "Check the configuration, or show what is in effect",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() }, // cobra would take any word without one
	}
	cmd.AddCommand(newConfigCheckCommand(a), newConfigShowCommand(a))
	return cmd
}

func newConfigCheckCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the configuration without starting anything",
		Long: `Check reads the configuration as the daemon would, environment and flags included, and
tells which file it read and everything that is wrong with it.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return checkConfig(a, asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	return cmd
}

func checkConfig(a *app, asJSON bool) error {
	loaded, err := a.loadConfig(nil)
	if asJSON {
		if writeErr := config.WriteCheck(a.stdout, loaded, err); writeErr != nil {
			return writeErr
		}
		return err
	}
	if err != nil {
		return err
	}
	if loaded.File == "" {
		fmt.Fprintln(a.stdout, "no configuration file: the defaults, the environment and flags are ok")
	} else {
		fmt.Fprintf(a.stdout, "%s: ok\n", loaded.File)
	}
	a.noteHidden(loaded)
	// A configuration without a model is valid: setup and status work with it.
	if err := loaded.CheckRunnable(); err != nil {
		fmt.Fprintf(a.stderr, "stoker: note: not enough to run: %v\n", err)
	}
	return nil
}

func newConfigShowCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show every setting in effect and where it came from",
		Long: `Show writes the settings in effect as TOML, each with the file and line, environment
variable or flag that it came from. The worker's environment is not shown: it may
hold secrets.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			loaded, err := a.loadConfig(nil)
			if err != nil {
				return err
			}
			if asJSON {
				return loaded.WriteJSON(a.stdout)
			}
			return loaded.WriteTOML(a.stdout)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	return cmd
}
