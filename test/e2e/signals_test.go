package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/test/rig"
)

// A SIGHUP that comes before the configuration was read is not lost, and ends nothing.
func TestHangupWhileStarting(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config)
	config := h.Path("config.toml")
	if err := os.Rename(config, config+".next"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(config, 0o600); err != nil { // which stoker reads for as long as the test wants
		t.Fatal(err)
	}
	h.Start()
	pipe, err := os.OpenFile(config, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	h.Daemon.Process.Signal(syscall.SIGHUP)
	if err := os.Rename(config+".next", config); err != nil {
		t.Fatal(err)
	}
	pipe.WriteString(rig.Config)
	if err := pipe.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.Await("the reload", func() bool { return h.Dead() || strings.Contains(h.Log(), "configuration is reloaded") }); err != nil || h.Dead() {
		t.Fatalf("dead: %v, %v\n%s", h.Dead(), err, h.Log())
	}
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 5)}
	h.Drop(in.Name, in.Content())
	if err := h.End(in); err != nil {
		t.Error(err)
	}
}

// SIGTERM ends a start that takes as long as it wants; the next one finds everything.
func TestTerminatedWhileStarting(t *testing.T) {
	t.Parallel()
	h, m := rig.NewHome(t, rig.Faulty, rig.Config+"delay = \"1s\"\n"), rig.NewManager(t)
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 1000)}
	h.Drop(in.Name, in.Content())
	h.Start()
	if err := h.Await("a batch", func() bool { return len(rig.Glob(t, h.Path(".state/batches/*/journal"))) > 0 }); err != nil {
		t.Fatal(err)
	}
	h.Kill()

	flag := h.Path("hang")
	h.Write("hang", "")
	h.Start(append(m.Environ(time.Minute), "STOKER_HANG_AT=start:"+flag)...)
	m.Await(h, "EXTEND_TIMEOUT_USEC=", 1)
	if err := h.Stop(); err != nil {
		t.Fatal(err)
	}
	m.Await(h, "STOPPING=1", 1)
	if n := m.Count("READY=1"); n > 0 {
		t.Errorf("told %q", m.Told())
	}
	h.Write("config.toml", rig.Config)
	h.Start()
	if err := h.End(in); err != nil {
		t.Error(err)
	}
}

// stuck is an interpreter whose worker takes long to leave once it is told to.
const stuck = `#!/bin/sh
case "$2" in -c) echo '{"version":"3.12.0","prefix":"/","base":"/","vllm":"0.32.0","dist":"vllm"}'; exit;; esac
echo '{"type":"hello","protocol":1,"engine":"vllm","version":"0.32.0"}' >&4
echo '{"type":"phase","phase":"loading","detail":"weights 40 %"}' >&4
cd "$(dirname "$0")"
grep -m1 '"type":"stop"' <&3 >/dev/null
touch told
sleep 5
touch left
`

// A second SIGTERM kills a worker that does not leave.
func TestSecondSignalKillsTheWorker(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, "[inbox]\nsettle = \"100ms\"\n[engine]\nkind = \"vllm\"\nmodel = \"echo\"\npython = \"python\"\n")
	h.Write("python", stuck)
	if err := os.Chmod(h.Path("python"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.Start()
	if err := h.Await("a worker that loads", func() bool {
		s, _ := rig.Report[rig.Status](h, "status")
		return s.Engine.State == "loading"
	}); err != nil {
		t.Fatal(err)
	}
	h.Daemon.Process.Signal(syscall.SIGTERM)
	if err := h.Await("the worker to be told", func() bool { return len(rig.Glob(t, h.Path("told"))) > 0 }); err != nil {
		t.Fatal(err)
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(h.Path("left")); len(left) > 0 {
		t.Error("the worker left when it wanted to")
	}
	if _, err := h.Verify(); err != nil {
		t.Error(err)
	}
}
