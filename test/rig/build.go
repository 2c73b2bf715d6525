// Package rig is the harness of the suites that run stoker as a whole: the built binary on the rehearsal engine, in a
// folder of its own. What it published is read and judged here by code that shares nothing with stoker.
package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

const (
	Released = "stoker"
	Faulty   = "stoker-faults" // with its crash points and planted bugs
)

// Main builds stoker twice, as it is released and with its crash points, puts both into $PATH and runs the tests.
func Main(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stoker-bin-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // one test runs it as another user
	}
	for _, args := range [][]string{{"-o", filepath.Join(dir, Released)}, {"-tags", "faults", "-o", filepath.Join(dir, Faulty)}} {
		if err == nil {
			err = goBuild(args)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	return m.Run()
}

func goBuild(args []string) error {
	cmd := exec.Command("go", append(append([]string{"build"}, args...), "stoker/cmd/stoker")...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build stoker: %w\n%s", err, out)
	}
	return nil
}
