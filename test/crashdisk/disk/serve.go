package disk

import (
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// serveVar names the environment variable that makes a process serve disks in the folder that it names.
const serveVar = "CRASHDISK_SERVE"

// Serve serves disks, if this process was started to do that, until whoever started it is gone, and then exits. It is a
// process of its own because a file of a disk that is mapped into memory would stop the very process that has to deliver
// it: Go's collector waits for a thread that waits for a page.
func Serve() {
	dir := os.Getenv(serveVar)
	if dir == "" {
		return
	}
	if err := serve(dir); err != nil {
		fmt.Fprintln(os.Stderr, "crashdisk:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(dir string) error {
	root, server, err := mount(dir)
	if err != nil {
		return err
	}
	calls := rpc.NewServer()
	if err := calls.RegisterName("Racks", &racks{root: root}); err != nil {
		return err
	}
	calls.ServeConn(stdio{os.Stdin, os.Stdout})
	if err := server.Unmount(); err != nil {
		// Whoever left disks mounted is dead. What they still ask is refused.
		return errors.Join(err, unix.Unmount(dir, unix.MNT_FORCE))
	}
	return nil
}

type stdio struct {
	io.Reader
	io.WriteCloser
}

// racks is what the process that has the disks does for the one that tests.
type racks struct {
	root *folder
	mu   sync.Mutex
	all  []*rack
}

func (s *racks) add(r *rack) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, r)
	number := len(s.all) - 1
	s.root.add(number, r)
	return number
}

func (s *racks) get(number int) *rack {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[number]
}

// NewArgs say what disks to make.
type NewArgs struct {
	Sector int
	Sizes  []int64
}

// New makes a rack of empty disks.
func (s *racks) New(a NewArgs, number *int) error {
	*number = s.add(newRack(a.Sector, a.Sizes))
	return nil
}

// Settle makes what a rack's disks hold their state from before any cut.
func (s *racks) Settle(number int, _ *struct{}) error {
	s.get(number).settle()
	return nil
}

// Length returns the length of a rack's log.
func (s *racks) Length(number int, length *int) error {
	*length = s.get(number).length()
	return nil
}

// FailArgs say which rack refuses writes and flushes.
type FailArgs struct {
	Rack int
	On   bool
}

// Fail begins or ends refusing writes and flushes.
func (s *racks) Fail(a FailArgs, _ *struct{}) error {
	s.get(a.Rack).fail(a.On)
	return nil
}

// Fork makes a rack for the cuts of another one.
func (s *racks) Fork(of int, number *int) error {
	*number = s.add(s.get(of).fork())
	return nil
}

// CutArgs say where the power of a fork is cut.
type CutArgs struct {
	Rack  int
	At    int
	Seed  uint64
	Again bool
}

// Cut makes a fork's disks what a cut leaves.
func (s *racks) Cut(a CutArgs, _ *struct{}) error {
	if a.Again {
		return s.get(a.Rack).cutAgain(a.At, a.Seed)
	}
	return s.get(a.Rack).cut(a.At, a.Seed)
}

// SaveArgs say which rack goes into which file.
type SaveArgs struct {
	Rack int
	Path string
}

// Save writes a rack to a file.
func (s *racks) Save(a SaveArgs, _ *struct{}) error { return s.get(a.Rack).save(a.Path) }

// Load makes a rack of such a file.
func (s *racks) Load(path string, number *int) error {
	r, err := loadRack(path)
	if err != nil {
		return err
	}
	*number = s.add(r)
	return nil
}

// Drop lets go of a rack.
func (s *racks) Drop(number int, _ *struct{}) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.all[number]
	for i := range r.sizes {
		s.root.RmChild(fileName(number, i))
	}
	s.all[number] = nil
	return nil
}
