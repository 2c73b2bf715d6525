package rig

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Manager is what systemd is to a service: a socket that it tells how it is.
type Manager struct {
	t    testing.TB
	path string
	conn *net.UnixConn

	mu   sync.Mutex
	told []string
}

// NewManager listens until the test ends.
func NewManager(t testing.TB) *Manager {
	t.Helper()
	m := &Manager{t: t, path: filepath.Join(t.TempDir(), "notify")}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: m.path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m.conn = conn
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		m.hear()
	}()
	t.Cleanup(func() {
		conn.Close()
		<-heard
	})
	return m
}

func (m *Manager) hear() {
	buf := make([]byte, 64<<10)
	for {
		n, err := m.conn.Read(buf)
		if err != nil {
			return
		}
		m.mu.Lock()
		m.told = append(m.told, string(buf[:n]))
		m.mu.Unlock()
	}
}

// Environ is what a service that is watched so closely inherits.
func (m *Manager) Environ(watchdog time.Duration) []string {
	return []string{"NOTIFY_SOCKET=" + m.path, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds())}
}

// Told is everything that the service has told since the last Forget, in order.
func (m *Manager) Told() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.told)
}

// Forget begins anew.
func (m *Manager) Forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.told = nil
}

// Count is how often the service told something that begins so.
func (m *Manager) Count(prefix string) (n int) {
	for _, told := range m.Told() {
		if strings.HasPrefix(told, prefix) {
			n++
		}
	}
	return n
}

// Await waits until the service has told n times something that begins so.
func (m *Manager) Await(h *Home, prefix string, n int) {
	m.t.Helper()
	if err := h.Await(fmt.Sprintf("%d times %s", n, prefix), func() bool { return m.Count(prefix) >= n }); err != nil {
		m.t.Fatalf("%v\ntold: %q", err, m.Told())
	}
}
