package client

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// A daemon that dies while it is asked is one that does not run, and nobody is told of HTTP.
func TestDaemonThatEndsIsNotRunning(t *testing.T) {
	for name, end := range map[string]func(*net.UnixConn){
		"closes":           func(*net.UnixConn) {},
		"closes after all": func(c *net.UnixConn) { c.Read(make([]byte, 4096)) },
		"half an answer": func(c *net.UnixConn) {
			c.Read(make([]byte, 4096))
			c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				for {
					c, err := l.AcceptUnix()
					if err != nil {
						return
					}
					end(c)
					c.Close()
				}
			}()
			_, err = New(socket).Status(t.Context())
			if !errors.Is(err, ErrNotRunning) || strings.Contains(err.Error(), "http://") || !strings.Contains(err.Error(), socket) {
				t.Error(err)
			}
		})
	}
}
