// Package disk makes disks whose power can be cut. A disk is a file of a FUSE file system with a loop device on it; the
// loop driver turns flushes into fsync on that file, so that the log of a rack of disks has each write and each flush in
// its order. A cut of the power is a place in that log: what was written before the last flush is there afterwards, and of
// the rest any part.
package disk

import (
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Server is the process that has the disks.
type Server struct {
	dir   string
	cmd   *exec.Cmd
	calls *rpc.Client
}

// Start starts the process, which is this binary once more and calls Serve. Its disks appear as files in dir. This process
// must be an isolated one.
//
// The process has mounts of its own, and shares those in dir alone: if it had those of its disks too, and were the last
// one to have them, its end would wait for them to be unmounted, and that for its answers, for ever.
func Start(dir string) (*Server, error) {
	err := unix.Mount(dir, dir, "", unix.MS_BIND, "")
	if err == nil {
		err = unix.Mount("", dir, "", unix.MS_SHARED, "")
	}
	if err != nil {
		return nil, fmt.Errorf("share mounts in %s: %w", dir, err)
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), serveVar+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS,
		Setpgid:    true, // Ctrl-C is for the tests: disks that are mounted must answer
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the process that has the disks: %w", err)
	}
	return &Server{dir: dir, cmd: cmd, calls: rpc.NewClient(struct {
		io.Reader
		io.WriteCloser
	}{out, in})}, nil
}

// Close ends the process. Nothing may be mounted from its disks any more.
func (s *Server) Close() error {
	return errors.Join(s.calls.Close(), s.cmd.Wait(), Unmount(s.dir))
}

// Rack is disks that lose power together.
type Rack struct {
	server *Server
	number int
}

// NewRack makes empty disks of the given sizes. Of a write that is not flushed any number of sectors may reach the disk.
func (s *Server) NewRack(sector int, sizes ...int64) (*Rack, error) {
	r := &Rack{server: s}
	return r, s.calls.Call("Racks.New", NewArgs{sector, sizes}, &r.number)
}

// Path is the file of a disk.
func (r *Rack) Path(disk int) string { return filepath.Join(r.server.dir, fileName(r.number, disk)) }

// Settle makes what the disks hold their state from before any cut: the log begins.
func (r *Rack) Settle() error { return r.server.calls.Call("Racks.Settle", r.number, new(struct{})) }

// Length is how many writes and flushes the log has.
func (r *Rack) Length() (n int, err error) {
	err = r.server.calls.Call("Racks.Length", r.number, &n)
	return n, err
}

// Fail makes the disks refuse writes and flushes, as broken ones do, or no longer.
func (r *Rack) Fail(on bool) error {
	return r.server.calls.Call("Racks.Fail", FailArgs{r.number, on}, new(struct{}))
}

// Fork makes a second rack, to show what cuts leave of this one, whose log must have come to its end.
func (r *Rack) Fork() (*Rack, error) {
	f := &Rack{server: r.server}
	return f, r.server.calls.Call("Racks.Fork", r.number, &f.number)
}

// Cut makes a fork's disks what a cut behind the log's first n events leaves. What was not flushed by then is drawn from
// seed. A fork's cuts must be made in order of n.
func (r *Rack) Cut(n int, seed uint64) error {
	return r.server.calls.Call("Racks.Cut", CutArgs{Rack: r.number, At: n, Seed: seed}, new(struct{}))
}

// CutAgain makes a fork's disks what a second cut leaves, behind n events since the one before.
func (r *Rack) CutAgain(n int, seed uint64) error {
	return r.server.calls.Call("Racks.Cut", CutArgs{Rack: r.number, At: n, Seed: seed, Again: true}, new(struct{}))
}

// Save writes the disks and their log to a file.
func (r *Rack) Save(path string) error {
	return r.server.calls.Call("Racks.Save", SaveArgs{r.number, path}, new(struct{}))
}

// LoadRack makes a rack of a file that Save wrote.
func (s *Server) LoadRack(path string) (*Rack, error) {
	r := &Rack{server: s}
	return r, s.calls.Call("Racks.Load", path, &r.number)
}

// Drop lets go of the disks.
func (r *Rack) Drop() error { return r.server.calls.Call("Racks.Drop", r.number, new(struct{})) }
