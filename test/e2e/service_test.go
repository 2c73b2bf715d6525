package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// startService starts a home's daemon as a service and waits until it is up.
func startService(t *testing.T, h *rig.Home, m *rig.Manager, watchdog time.Duration, env ...string) {
	t.Helper()
	h.Start(append(m.Environ(watchdog), env...)...)
	m.Await(h, "READY=1", 1)
}

// A service tells systemd all that its unit counts on, in the right order.
func TestTellsSystemd(t *testing.T) {
	t.Parallel()
	h, m := rig.NewHome(t, rig.Released, rig.Config+"delay = \"10s\"\n"), rig.NewManager(t)
	startService(t, h, m, time.Minute)
	if first := m.Told()[0]; first != "EXTEND_TIMEOUT_USEC=30000000" {
		t.Errorf("first it tells %q", first)
	}
	m.Await(h, "STATUS=engine is ready; idle", 1)
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 1204)}
	h.Drop(in.Name, in.Content())
	m.Await(h, "STATUS=engine is ready; 1 batch, 1,204 requests to go", 1)

	worker, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(h.Worker()), "environ"))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range strings.Split(string(worker), "\x00") {
		if strings.HasPrefix(v, "NOTIFY_SOCKET=") || strings.HasPrefix(v, "WATCHDOG_") {
			t.Errorf("the worker inherits %s", v)
		}
	}

	m.Forget()
	h.Write("config.toml", strings.Replace(rig.Config, "debug", "info", 1)+"delay = \"1h\"\n")
	h.Daemon.Process.Signal(syscall.SIGHUP)
	m.Await(h, "READY=1", 1)
	told := m.Told()
	i := slices.IndexFunc(told, func(s string) bool { return strings.HasPrefix(s, "RELOADING=1") })
	if i < 0 || !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*$`).MatchString(told[i]) || slices.Index(told, "READY=1") < i {
		t.Errorf("a reload tells %q", told)
	}
	m.Await(h, "STATUS=engine is ready; 1 batch, 1,204 requests to go; to be restarted for engine.args.delay", 1)

	m.Forget()
	h.Daemon.Process.Signal(syscall.SIGTERM)
	m.Await(h, "STATUS=stopping; 320 requests in flight may finish until ", 1)
	told = m.Told()
	if i, j := slices.Index(told, "STOPPING=1"), slices.Index(told, "EXTEND_TIMEOUT_USEC=30000000"); i < 0 || j < 0 {
		t.Errorf("a stop tells %q", told)
	}
	h.Daemon.Process.Signal(syscall.SIGTERM)
	if end, err := h.Wait(); err != nil || end.ExitCode() != 0 {
		t.Errorf("after a second signal: %v, %v", end, err)
	}
	h.Write("config.toml", rig.Config)
	h.Start()
	if err := h.End(in); err != nil {
		t.Error(err)
	}
}

// A service whose engine cannot be had is up, and says what is wrong.
func TestIsUpWithoutEngine(t *testing.T) {
	t.Parallel()
	h, m := rig.NewHome(t, rig.Released, rig.Config), rig.NewManager(t)
	h.Write("config.toml", strings.Replace(rig.Config, `kind = "echo"`, `kind = "vllm"`+"\nmodel = \"/nowhere\"\npython = \"/nowhere/python\"", 1))
	startService(t, h, m, time.Minute)
	m.Await(h, "STATUS=engine is down for good: ", 1)
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
}

// loader is an interpreter whose worker loads for ever.
const loader = `#!/bin/sh
case "$2" in -c) echo '{"version":"3.12.0","prefix":"/","base":"/","vllm":"0.32.0","dist":"vllm"}'; exit;; esac
echo '{"type":"hello","protocol":1,"engine":"vllm","version":"0.32.0"}' >&4
echo '{"type":"phase","phase":"loading","detail":"weights 40 %"}' >&4
exec sleep 1000
`

// A model that loads for long is told of, and no hang.
func TestLoadsForLong(t *testing.T) {
	t.Parallel()
	h, m := rig.NewHome(t, rig.Released, "[inbox]\nsettle = \"100ms\"\n[engine]\nkind = \"vllm\"\nmodel = \"echo\"\npython = \"python\"\n"), rig.NewManager(t)
	h.Write("python", loader)
	if err := os.Chmod(h.Path("python"), 0o755); err != nil {
		t.Fatal(err)
	}
	startService(t, h, m, quick)
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 5)}
	h.Drop(in.Name, in.Content())
	m.Await(h, "STATUS=loading weights 40 %; 1 batch, 5 requests to go", 1)
	m.Forget()
	m.Await(h, "WATCHDOG=1", 20)
	if n := m.Count("STATUS=hangs"); n > 0 {
		t.Errorf("told %q", m.Told())
	}
	if err := h.Stop(); err != nil {
		t.Error(err)
	}
}

// quick is a watchdog's interval for tests.
const quick = 2 * time.Second

// A loop that hangs, whichever it is, makes the watchdog bite; the next start loses nothing.
func TestHungOwnerStarvesTheWatchdog(t *testing.T) {
	t.Parallel()
	began := time.Now()
	var mu sync.Mutex
	row := figures.Figures{Suite: "hung loops", Note: "each made the watchdog bite"}
	t.Cleanup(func() {
		row.Seconds = int(time.Since(began).Seconds())
		figures.Report(t, row)
	})
	for point, name := range map[string]string{
		"inbox": "inbox", "archive": "archive", "dispatch": "dispatch", "engine": "engine supervisor", "outbox": "outbox", "store": "store", "daemon": "daemon",
	} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h, m := rig.NewHome(t, rig.Faulty, rig.Config+"delay = \"20ms\"\n"), rig.NewManager(t)
			flag := filepath.Join(t.TempDir(), "hang")
			x, y := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 3000)}, rig.Input{Name: "y.jsonl", Lines: rig.Good("y", 10)}
			h.Drop(x.Name, x.Content())
			startService(t, h, m, quick, "STOKER_HANG_AT="+point+":"+flag)
			m.Await(h, "WATCHDOG=1", 3)
			if err := os.WriteFile(flag, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			h.Drop(y.Name, y.Content()) // the store hangs when it is used
			if err := h.Await("the hang to be told", func() bool {
				return slices.ContainsFunc(m.Told(), func(s string) bool { return strings.HasPrefix(s, "STATUS=hangs: ") && strings.Contains(s, name) })
			}); err != nil {
				t.Fatalf("%v\ntold: %q", err, m.Told())
			}
			m.Forget()
			time.Sleep(quick)
			if n := m.Count("WATCHDOG=1"); n > 0 {
				t.Errorf("the watchdog is fed %d times by a stoker that hangs", n)
			}
			h.Daemon.Process.Signal(syscall.SIGABRT) // as systemd does
			if _, err := h.Wait(); err != nil {
				t.Fatal(err)
			}
			h.Start()
			if err := h.End(x, y); err != nil {
				t.Error(err)
			}
			tally, err := h.Tally(x, y)
			if err != nil {
				t.Error(err)
			}
			v, _ := rig.Report[rig.Verification](h, "verify")
			mu.Lock()
			defer mu.Unlock()
			row.Count++
			row.Lost, row.Doubled, row.Redone = row.Lost+tally.Lost, row.Doubled+tally.Doubled, max(row.Redone, int(v.Redone))
		})
	}
}
