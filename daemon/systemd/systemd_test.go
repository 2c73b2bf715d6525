package systemd

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// manager is a socket as systemd's, and the environment that names it.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

// told reads what the manager was told so far.
func told(t *testing.T, conn *net.UnixConn, n int) (all []string) {
	t.Helper()
	buf := make([]byte, 4096)
	for range n {
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(buf[:n]))
	}
	return all
}

func TestTells(t *testing.T) {
	conn := manager(t)
	n := New(zerolog.Nop())
	n.Status("loading weights")
	n.Ready()
	n.Alive()
	n.Reloading()
	n.Stopping()
	got := told(t, conn, 5)
	if clock, ok := strings.CutPrefix(got[3], "RELOADING=1\nMONOTONIC_USEC="); !ok || strings.Trim(clock, "0123456789") != "" {
		t.Errorf("a reload tells %q", got[3])
	}
	got[3] = "RELOADING"
	if diff := cmp.Diff([]string{"STATUS=loading weights", "READY=1", "WATCHDOG=1", "RELOADING", "STOPPING=1"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// More time is asked for before it is up, as long as it is needed, and not for ever.
func TestExtend(t *testing.T) {
	conn := manager(t)
	synctest.Test(t, func(t *testing.T) {
		done, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			New(zerolog.Nop()).Extend(done, time.Hour)
		}()
		time.Sleep(time.Minute - time.Nanosecond)
		synctest.Wait()
		close(done)
		<-ended

		began := time.Now()
		New(zerolog.Nop()).Extend(nil, 25*time.Second)
		if took := time.Since(began); took != 25*time.Second {
			t.Errorf("it asks for %s", took)
		}
	})
	for _, s := range told(t, conn, 6+3) {
		if s != "EXTEND_TIMEOUT_USEC=30000000" {
			t.Errorf("told %q", s)
		}
	}
}

func TestWatchdogInterval(t *testing.T) {
	t.Setenv("WATCHDOG_PID", "")
	for value, want := range map[string]time.Duration{"": 0, "60000000": time.Minute, "x": 0} {
		t.Setenv("WATCHDOG_USEC", value)
		if got := New(zerolog.Nop()).WatchdogInterval(); got != want {
			t.Errorf("of %q it is %s, want %s", value, got, want)
		}
	}
	t.Setenv("WATCHDOG_USEC", "60000000")
	t.Setenv("WATCHDOG_PID", "1")
	if got := New(zerolog.Nop()).WatchdogInterval(); got != 0 {
		t.Errorf("of another process it is %s", got)
	}
}

// Without a manager, or with one that is gone, nothing happens.
func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	New(zerolog.Nop()).Ready()
	manager(t).Close()
	var log strings.Builder
	n := New(zerolog.New(&log))
	n.Ready()
	n.Alive()
	if said := strings.Count(log.String(), "cannot notify systemd"); said != 1 {
		t.Errorf("it is said %d times that nobody listens: %s", said, log.String())
	}
	var none *Notifier
	none.Ready()
	none.Extend(nil, time.Hour)
	if none.WatchdogInterval() != 0 {
		t.Error("nobody expects signs of life")
	}
}

func TestWithoutOurs(t *testing.T) {
	got := WithoutOurs([]string{"PATH=/bin", "NOTIFY_SOCKET=/run/x", "WATCHDOG_USEC=1", "JOURNAL_STREAM=1:2", "NOTIFY=1"})
	if diff := cmp.Diff([]string{"PATH=/bin", "NOTIFY=1"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A status is one line of UTF-8 that systemd takes, however long a cause is.
func TestStatusFits(t *testing.T) {
	conn := manager(t)
	n := New(zerolog.Nop())
	n.Status("one\n two\xff")
	n.Status(strings.Repeat("ä", 3000))
	got := told(t, conn, 2)
	if want := "STATUS=one two\uFFFD"; got[0] != want {
		t.Errorf("told %q, want %q", got[0], want)
	}
	if want := "STATUS=" + strings.Repeat("ä", 500) + "…"; got[1] != want {
		t.Errorf("told %d bytes, %q, want %d", len(got[1]), got[1], len(want))
	}
	n.Status("x" + strings.Repeat("ä", 3000))
	if got := told(t, conn, 1)[0]; got != "STATUS=x"+strings.Repeat("ä", 499)+"…" {
		t.Errorf("told %q", got)
	}
}
