package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"stoker/daemon/api"
	"stoker/engine/protocol"
)

// releaseVersion is set by the linker: -X main.releaseVersion=1.2.3.
var releaseVersion = "0.1.0-dev"

func version() string { return releaseVersion }

type versionReport struct {
	SchemaVersion int    `json:"schema_version"`
	Version       string `json:"version"`
	Commit        string `json:"commit"`
	Go            string `json:"go"`
	Platform      string `json:"platform"`
	Protocol      int    `json:"worker_protocol"`
}

func newVersionCommand(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			r := versionReport{api.SchemaVersion, version(), commit(), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, protocol.Version}
			if asJSON {
				return a.writeJSON(r)
			}
			_, err := fmt.Fprintf(a.stdout, "stoker %s (commit %s, %s, %s, worker protocol %d)\n", r.Version, r.Commit, r.Go, r.Platform, r.Protocol)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write one JSON object")
	return cmd
}

func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return "unknown"
}

func (a *app) writeJSON(v any) error {
	if err := json.MarshalWrite(a.stdout, v, json.Deterministic(true)); err != nil {
		return err
	}
	_, err := fmt.Fprintln(a.stdout)
	return err
}
