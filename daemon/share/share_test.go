package share

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"stoker/store/durable"
	"stoker/test/faultfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is two folders that hang when the test says so, on a fake clock.
type rig struct {
	*testing.T
	inbox, outbox string
	fs            *FS
	release       chan struct{}
	hangs         atomic.Pointer[string] // paths with this in them
	held          atomic.Int64
}

func bubble(t *testing.T, test func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		dir, faulty := t.TempDir(), faultfs.New(durable.Local{})
		r := &rig{T: t, inbox: filepath.Join(dir, "inbox"), outbox: filepath.Join(dir, "outbox"), release: make(chan struct{})}
		for _, d := range []string{r.inbox, r.outbox} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		faulty.Set(func(_ faultfs.Op, path string) error {
			if part := r.hangs.Load(); part != nil && strings.Contains(path, *part) {
				r.held.Add(1)
				<-r.release
				r.held.Add(-1)
			}
			return nil
		})
		r.fs = New(faulty, Folder{Name: "inbox", Dir: r.inbox}, Folder{Name: "outbox", Dir: r.outbox})
		test(r)
	})
}

func (r *rig) hang(part string) { r.hangs.Store(&part) }

func (r *rig) resume() {
	r.hangs.Store(nil)
	close(r.release)
	synctest.Wait()
}

// A share that does not answer is asked by nobody else, and its trouble is told without asking it.
func TestSilentShare(t *testing.T) {
	bubble(t, func(r *rig) {
		r.hang("/inbox")
		began := time.Now()
		go r.fs.Lstat(filepath.Join(r.inbox, "x"))
		time.Sleep(Patience - 1)
		if all := r.fs.Troubles(); len(all) > 0 {
			t.Errorf("in trouble too early: %+v", all)
		}
		time.Sleep(time.Minute)
		all := r.fs.Troubles()
		var silent *SilentError
		if len(all) != 1 || all[0].Name != "inbox" || !all[0].Since.Equal(began) || !errors.As(all[0].Err, &silent) {
			t.Fatalf("troubles are %+v", all)
		}
		if want := "inbox " + r.inbox + " has not answered since 2000-01-01 00:00:00 (stat " + r.inbox + "/x)"; silent.Error() != want {
			t.Errorf("says %q, want %q", silent, want)
		}
		for range 100 {
			if _, err := r.fs.ReadDir(r.inbox); !errors.As(err, &silent) {
				t.Errorf("asked a share that does not answer: %v", err)
			}
		}
		if _, err := r.fs.ReadDir(r.outbox); err != nil {
			t.Errorf("the other share: %v", err)
		}
		if n := r.held.Load(); n != 1 {
			t.Errorf("%d operations hang", n)
		}
		r.resume()
		if _, err := r.fs.ReadDir(r.inbox); err != nil || len(r.fs.Troubles()) > 0 {
			t.Errorf("it answers again: %v, %+v", err, r.fs.Troubles())
		}
	})
}

// Whatever it is that hangs is told by its name.
func TestSilentCallIsNamed(t *testing.T) {
	for want, hang := range map[string]func(fsys *FS, f durable.File, path string){
		"open":        func(fsys *FS, _ durable.File, path string) { fsys.OpenFile(path, os.O_RDONLY, 0) },
		"create":      func(fsys *FS, _ durable.File, path string) { fsys.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0) },
		"stat":        func(fsys *FS, _ durable.File, path string) { fsys.Stat(path) },
		"read folder": func(fsys *FS, _ durable.File, path string) { fsys.ReadDir(path) },
		"make folder": func(fsys *FS, _ durable.File, path string) { fsys.Mkdir(path, 0o700) },
		"remove":      func(fsys *FS, _ durable.File, path string) { fsys.RemoveAll(path + "/y") },
		"rename":      func(fsys *FS, _ durable.File, path string) { fsys.RenameNew(path+"/y", path) },
		"sync folder": func(fsys *FS, _ durable.File, path string) { fsys.SyncDir(path) },
		"read":        func(_ *FS, f durable.File, _ string) { f.Read(nil) },
		"write":       func(_ *FS, f durable.File, _ string) { f.Write(nil) },
		"truncate":    func(_ *FS, f durable.File, _ string) { f.Truncate(0) },
		"chmod":       func(_ *FS, f durable.File, _ string) { f.Chmod(0o600) },
		"chown":       func(_ *FS, f durable.File, _ string) { f.Chown(-1, -1) },
		"set time of": func(_ *FS, f durable.File, _ string) { f.Chtime(time.Now()) },
		"sync":        func(_ *FS, f durable.File, _ string) { f.Datasync() },
		"close":       func(_ *FS, f durable.File, _ string) { f.Close() },
	} {
		bubble(t, func(r *rig) {
			path := filepath.Join(r.inbox, "x")
			f, err := r.fs.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			r.hang("/inbox")
			go hang(r.fs, f, path)
			time.Sleep(time.Minute)
			var silent *SilentError
			if all := r.fs.Troubles(); len(all) != 1 || !errors.As(all[0].Err, &silent) || !strings.HasPrefix(silent.Call, want+" "+path) {
				t.Errorf("while %q hangs, troubles are %+v", want, all)
			}
			r.resume()
		})
	}
}

// A file on a share that does not answer is closed by whom nobody waits for.
func TestCloseOnSilentShare(t *testing.T) {
	bubble(t, func(r *rig) {
		f, err := r.fs.OpenFile(filepath.Join(r.inbox, "x"), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		r.hang("/inbox")
		go r.fs.Lstat(r.inbox + "/y")
		time.Sleep(time.Minute)
		began := time.Now()
		var silent *SilentError
		if err := f.Close(); !errors.As(err, &silent) || !time.Now().Equal(began) {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		r.resume()
		if _, err := f.Write([]byte("x")); !errors.Is(err, os.ErrClosed) {
			t.Errorf("the descriptor is kept: %v", err)
		}
	})
}

// What begins later and comes back shows that the share answers; the slow operation waits for something else.
func TestSlowIsNotSilent(t *testing.T) {
	bubble(t, func(r *rig) {
		r.hang("/inbox/slow")
		go r.fs.Lstat(filepath.Join(r.inbox, "slow"))
		time.Sleep(Patience / 2)
		if _, err := r.fs.ReadDir(r.inbox); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if _, err := r.fs.ReadDir(r.inbox); err != nil || len(r.fs.Troubles()) > 0 {
			t.Errorf("%v, %+v", err, r.fs.Troubles())
		}
		r.resume()
	})
}

// A rename from a folder that must be mounted is refused while it is not, wherever it goes.
func TestRenameFromUnmounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "inbox")
	outbox := t.TempDir()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fs := New(durable.Local{}, Folder{Name: "inbox", Dir: dir, Mount: true}, Folder{Name: "outbox", Dir: outbox})
	for _, to := range []string{outbox, t.TempDir()} {
		var unmounted *UnmountedError
		if err := fs.Rename(filepath.Join(dir, "x"), filepath.Join(to, "x")); !errors.As(err, &unmounted) || unmounted.Name != "inbox" {
			t.Errorf("to %s: %v", to, err)
		}
	}
}

// A rename that hangs says nothing of the share that the file comes from.
func TestRenameHangs(t *testing.T) {
	bubble(t, func(r *rig) {
		r.hang("/outbox")
		go r.fs.RenameNew(filepath.Join(r.inbox, "x"), filepath.Join(r.outbox, "x"))
		time.Sleep(time.Minute)
		if all := r.fs.Troubles(); len(all) != 1 || all[0].Name != "outbox" {
			t.Errorf("troubles are %+v", all)
		}
		r.resume()
	})
}

// A sync may take longer than other operations: it may have a whole file to send.
func TestSyncIsGivenTime(t *testing.T) {
	bubble(t, func(r *rig) {
		f, err := r.fs.OpenFile(filepath.Join(r.outbox, "x"), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		r.hang("/outbox")
		done := make(chan error)
		go func() { done <- f.Sync() }()
		time.Sleep(syncPatience - 1)
		if all := r.fs.Troubles(); len(all) > 0 {
			t.Errorf("troubles are %+v", all)
		}
		time.Sleep(1)
		if all := r.fs.Troubles(); len(all) != 1 {
			t.Errorf("troubles are %+v", all)
		}
		r.hangs.Store(nil)
		close(r.release)
		if err := errors.Join(<-done, f.Close()); err != nil {
			t.Error(err)
		}
	})
}

func TestSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		if v, err := Soon(func() (int, error) { return 7, unix.EIO }); v != 7 || err != unix.EIO {
			t.Errorf("%d, %v", v, err)
		}
		began := time.Now()
		_, err := Soon(func() (int, error) { <-release; return 7, nil })
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != Patience {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		close(release)
	})
}

// mountRig is a filesystem whose folders must be mounted, with a real mount.
func mountRig(t *testing.T, f Folder) *FS {
	t.Helper()
	if err := os.MkdirAll(f.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return New(durable.Local{}, f)
}

func mount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
}

func writable(fs *FS, dir string) error {
	return errors.Join(fs.Mkdir(filepath.Join(dir, "x"), 0o755), fs.Remove(filepath.Join(dir, "x")))
}

// A folder that must be a mount point is used only while it is one; a bind of the same filesystem is one, too.
func TestMustBeMounted(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "inbox")
	fs := mountRig(t, Folder{Name: "inbox", Dir: dir, Mount: true})
	var unmounted *UnmountedError
	for range 2 {
		if err := writable(fs, dir); !errors.As(err, &unmounted) || len(fs.Troubles()) != 1 {
			t.Fatalf("not mounted: %v, %+v", err, fs.Troubles())
		}
		mount(t, dir)
		if err := writable(fs, dir); err != nil || len(fs.Troubles()) > 0 {
			t.Fatalf("mounted: %v, %+v", err, fs.Troubles())
		}
		unmount(t, dir)
	}
	if err := unix.Mount(t.TempDir(), dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unmount(t, dir)
	if err := writable(fs, dir); err != nil {
		t.Errorf("bound: %v", err)
	}
}

// A folder below a mount point that is gone, or empty, is not made anew in the folder that lies below.
func TestMustStayMounted(t *testing.T) {
	point := t.TempDir()
	mount(t, point)
	dir := filepath.Join(point, "outbox")
	fs := mountRig(t, Folder{Name: "outbox", Dir: dir, Stay: true})
	if err := writable(fs, dir); err != nil {
		t.Fatal(err)
	}
	unmount(t, point)
	var unmounted *UnmountedError
	if err := fs.Mkdir(dir, 0o755); !errors.As(err, &unmounted) || unmounted.Mount != point {
		t.Errorf("not mounted: %v", err)
	}
	if left, _ := os.ReadDir(point); len(left) > 0 {
		t.Errorf("made %v below the mount point", left)
	}
	mount(t, point)
	if err := fs.Mkdir(dir, 0o755); err != nil {
		t.Errorf("mounted again: %v", err)
	}
}

// A folder that was never mounted is as good as any.
func TestLocalFolderMayStay(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "outbox")
	fs := mountRig(t, Folder{Name: "outbox", Dir: dir, Stay: true})
	for range 2 {
		if err := writable(fs, dir); err != nil {
			t.Error(err)
		}
	}
}

// counter is told of calls.
type counter struct{ began, ended atomic.Int64 }

func (c *counter) Begin() { c.began.Add(1) }
func (c *counter) End()   { c.ended.Add(1) }

// Who is watched is watched in all that hangs, and nobody else is.
func TestWatchedCalls(t *testing.T) {
	bubble(t, func(r *rig) {
		c := new(counter)
		watched, path := r.fs.For(c), filepath.Join(r.inbox, "x")
		r.fs.Lstat(path)
		if n := c.began.Load(); n != 0 {
			t.Errorf("%d calls of somebody else's are told", n)
		}
		f, err := watched.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		for op, do := range map[string]func() error{
			"write": func() error { _, err := f.Write([]byte("x")); return err },
			"read":  func() error { _, err := f.ReadAt(make([]byte, 1), 0); return err },
			"sync":  f.Sync, "datasync": f.Datasync, "stat": func() error { _, err := f.Stat(); return err },
			"rename": func() error { return watched.Rename(path, path) }, "sync folder": func() error { return watched.SyncDir(r.inbox) },
		} {
			before := c.ended.Load()
			if err := do(); err != nil {
				t.Errorf("%s: %v", op, err)
			}
			if c.ended.Load() == before {
				t.Errorf("%s is not told", op)
			}
		}
		r.hang("/inbox")
		go watched.Lstat(path)
		time.Sleep(time.Hour)
		if under := c.began.Load() - c.ended.Load(); under != 1 {
			t.Errorf("%d calls are told to be under way, want the one that hangs", under)
		}
		r.resume()
		if under := c.began.Load() - c.ended.Load(); under != 0 {
			t.Errorf("%d calls are told to be under way after all came back", under)
		}
		f.Close()
	})
}
