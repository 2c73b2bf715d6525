// Package e2e holds what is proved about stoker as a whole: the built binary on the rehearsal engine, killed at random
// moments and at every step that promises durability. What it published is read and judged here by code of its own.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMain builds stoker twice, as it is released and with its crash points, and puts both into $PATH.
func TestMain(m *testing.M) { os.Exit(run(m)) }

const (
	released = "stoker"
	faulty   = "stoker-faults"
)

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stoker-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755) // one test runs it as another user
	}
	for _, args := range [][]string{{"-o", filepath.Join(dir, released)}, {"-tags", "faults", "-o", filepath.Join(dir, faulty)}} {
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
