//go:build disk

package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestMain(m *testing.M) {
	Serve()
	if err := Isolate(); err != nil {
		fmt.Fprintln(os.Stderr, "crashdisk:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func start(t *testing.T) *Server {
	t.Helper()
	s, err := Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newFileSystem makes a rack of one disk with an empty ext4 on it, whose log begins.
func newFileSystem(t *testing.T, s *Server) (r *Rack, dir string) {
	t.Helper()
	r, err := s.NewRack(512, 32<<20)
	must(t, err)
	must(t, r.Format(0, "mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"))
	must(t, r.Settle())
	dir = t.TempDir()
	must(t, r.Mount(0, dir, "ext4", ""))
	return r, dir
}

// TestCutsOnAFileSystem cuts the power under files that are synced one after another, and under the recovery from that.
func TestCutsOnAFileSystem(t *testing.T) {
	s := start(t)
	r, dir := newFileSystem(t, s)
	var synced []int // the log's length when each file was
	for i := range 20 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		must(t, err)
		_, err = fmt.Fprint(f, i)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Close())
		n, err := r.Length()
		must(t, err)
		synced = append(synced, n)
	}
	must(t, Unmount(dir))
	fork, err := r.Fork()
	must(t, err)
	length, err := r.Length()
	must(t, err)
	lost := 0
	for cut := 0; cut <= length; cut += 3 {
		must(t, fork.Cut(cut, 1))
		lost += missing(t, fork, dir, synced, cut)
		n, err := fork.Length()
		must(t, err)
		must(t, fork.CutAgain(n/2, 2))
		missing(t, fork, dir, synced, cut)
	}
	if lost == 0 {
		t.Error("no cut came before a file was synced")
	}
	must(t, fork.Drop())
}

// missing mounts the disk and counts the files that are not there. Those that were synced before the cut must be.
func missing(t *testing.T, r *Rack, dir string, synced []int, cut int) (n int) {
	t.Helper()
	must(t, r.Mount(0, dir, "ext4", ""))
	defer func() { must(t, Unmount(dir)) }()
	for i, at := range synced {
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(i)))
		there := err == nil && string(b) == fmt.Sprint(i)
		if !there {
			n++
		}
		if at <= cut && !there {
			t.Errorf("cut at %d: file %d was synced at %d and holds %q: %v", cut, i, at, b, err)
		}
	}
	return n
}

func TestFailingDisk(t *testing.T) {
	s := start(t)
	r, dir := newFileSystem(t, s)
	f, err := os.Create(filepath.Join(dir, "x"))
	must(t, err)
	defer f.Close()
	must(t, f.Sync())
	must(t, r.Fail(true))
	_, err = f.WriteString("x")
	must(t, err)
	if err := f.Sync(); err == nil {
		t.Error("a failing disk was synced")
	}
	f.Close()
	must(t, Unmount(dir))
	must(t, r.Fail(false))
	must(t, r.Mount(0, dir, "ext4", ""))
	must(t, Unmount(dir))
}

// TestSavedRack has another process show the same cut.
func TestSavedRack(t *testing.T) {
	s := start(t)
	r, dir := newFileSystem(t, s)
	must(t, os.WriteFile(filepath.Join(dir, "x"), []byte("x"), 0o600))
	must(t, Unmount(dir))
	path := filepath.Join(t.TempDir(), "rack")
	must(t, r.Save(path))
	loaded, err := start(t).LoadRack(path)
	must(t, err)
	for _, of := range []*Rack{r, loaded} {
		fork, err := of.Fork()
		must(t, err)
		n, err := of.Length()
		must(t, err)
		must(t, fork.Cut(n, 1))
		must(t, fork.Mount(0, dir, "ext4", ""))
		b, err := os.ReadFile(filepath.Join(dir, "x"))
		must(t, err)
		if string(b) != "x" {
			t.Errorf("x holds %q", b)
		}
		must(t, Unmount(dir))
	}
}
