package storage

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// share is a folder behind FUSE that can be made to fail or to hang.
type share struct {
	fuse.RawFileSystem
	t       testing.TB
	dir     string
	backing string

	mu    sync.Mutex
	rule  func(op) error
	held  []op          // operations that hang
	going chan struct{} // closed when nothing hangs
}

// op is what a share is asked to do.
type op string

// newShare mounts one on a folder, which is made. What it holds lies elsewhere.
func newShare(t testing.TB, dir string) *share {
	t.Helper()
	s := &share{t: t, dir: dir, backing: t.TempDir(), going: make(chan struct{})}
	close(s.going)
	if err := os.MkdirAll(dir, 0o775); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.resume(); unix.Unmount(dir, unix.MNT_DETACH) })
	s.mount()
	return s
}

func (s *share) mount() {
	s.t.Helper()
	root, err := fs.NewLoopbackRoot(s.backing)
	if err != nil {
		s.t.Fatal(err)
	}
	s.RawFileSystem = fs.NewNodeFS(root, &fs.Options{})
	server, err := fuse.NewServer(s, s.dir, &fuse.MountOptions{
		DirectMountStrict: true, FsName: "share", Name: "stokertest", DisableXAttrs: true,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, // by which reads and writes would not come by here
	})
	if err != nil {
		s.t.Fatal(err)
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		s.t.Fatal(err)
	}
}

// unmount takes the share away, under whoever uses it. An empty folder stays.
func (s *share) unmount() {
	s.t.Helper()
	if err := unix.Unmount(s.dir, unix.MNT_DETACH); err != nil {
		s.t.Fatal(err)
	}
}

// fail sets what fails from here on; nil ends all faults.
func (s *share) fail(rule func(op) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rule = rule
}

// hang lets nothing come back until resume.
func (s *share) hang() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.going = make(chan struct{})
}

func (s *share) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.going:
	default:
		close(s.going)
	}
}

// hanging are the operations that hang.
func (s *share) hanging() []op {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.held)
}

func (s *share) path(name string) string { return filepath.Join(s.dir, name) }

// ask waits while the share hangs, and says how the operation fails.
func (s *share) ask(o op) fuse.Status {
	s.mu.Lock()
	going, rule := s.going, s.rule
	s.held = append(s.held, o)
	s.mu.Unlock()
	<-going
	s.mu.Lock()
	i := slices.Index(s.held, o)
	s.held = slices.Delete(s.held, i, i+1)
	s.mu.Unlock()
	if rule == nil {
		return fuse.OK
	}
	return fuse.ToStatus(rule(o))
}

func failing(err error, ops ...op) func(op) error {
	return func(o op) error {
		for _, other := range ops {
			if o == other {
				return err
			}
		}
		return nil
	}
}

func (s *share) Lookup(c <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if st := s.ask("lookup"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.Lookup(c, h, name, out)
}

func (s *share) GetAttr(c <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if st := s.ask("getattr"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.GetAttr(c, in, out)
}

func (s *share) SetAttr(c <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if st := s.ask("setattr"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.SetAttr(c, in, out)
}

func (s *share) Mkdir(c <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	if st := s.ask("mkdir"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.Mkdir(c, in, name, out)
}

func (s *share) Unlink(c <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if st := s.ask("unlink"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.Unlink(c, h, name)
}

func (s *share) Rmdir(c <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if st := s.ask("rmdir"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.Rmdir(c, h, name)
}

func (s *share) Rename(c <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	if st := s.ask("rename"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.Rename(c, in, from, to)
}

func (s *share) Create(c <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	if st := s.ask("create"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.Create(c, in, name, out)
}

func (s *share) Open(c <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if st := s.ask("open"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.Open(c, in, out)
}

func (s *share) Read(c <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	if st := s.ask("read"); st != fuse.OK {
		return nil, st
	}
	return s.RawFileSystem.Read(c, in, buf)
}

func (s *share) Write(c <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	if st := s.ask("write"); st != fuse.OK {
		return 0, st
	}
	return s.RawFileSystem.Write(c, in, data)
}

func (s *share) Flush(c <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	if st := s.ask("flush"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.Flush(c, in)
}

func (s *share) Fsync(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if st := s.ask("fsync"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.Fsync(c, in)
}

func (s *share) OpenDir(c <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if st := s.ask("readdir"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.OpenDir(c, in, out)
}

func (s *share) FsyncDir(c <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	if st := s.ask("fsync"); st != fuse.OK {
		return st
	}
	return s.RawFileSystem.FsyncDir(c, in)
}

func (s *share) Writev(c <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if st := s.ask("write"); st != fuse.OK {
		return 0, st
	}
	return s.RawFileSystem.Writev(c, in, data)
}
