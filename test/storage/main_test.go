// Package storage holds what is proved about stoker on storage that is full, fails, hangs or is gone.
package storage

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"stoker/test/rig"
)

// inside tells a process that it has mounts of its own.
const inside = "STOKER_TEST_MOUNTS"

// TestMain runs the tests in a mount namespace of their own: whatever they mount is gone with them, however they end.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		os.Exit(rig.Main(m))
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "a mount namespace needs root:", err)
		os.Exit(1)
	}
	os.Exit(cmd.ProcessState.ExitCode())
}
