package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, text string) string {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o640))
	return path
}

func check(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || string(got) != want {
		t.Errorf("%s holds %q, %v; want %q", path, got, err, want)
	}
}

func checkGone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is there (%v)", path, err)
	}
}

// checkNames checks what a folder holds, so that nothing temporary stays.
func checkNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, names, want)
	}
}

// linkPaths is linkRename by paths.
func linkPaths(from, to string) error {
	return linkRename(place{unix.AT_FDCWD, from}, place{unix.AT_FDCWD, to})
}

// All ways of renaming keep the same promises.
func TestRename(t *testing.T) {
	for name, rename := range map[string]func(from, to string) error{"renameat2": Local{}.RenameNew, "beneath": Beneath{"/"}.RenameNew, "link": linkPaths} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			from, to := write(t, filepath.Join(dir, "from"), "mine"), filepath.Join(dir, "to")
			must(t, rename(from, to))
			checkGone(t, from)
			check(t, to, "mine")

			write(t, from, "other")
			if err := rename(from, to); !errors.Is(err, fs.ErrExist) {
				t.Errorf("onto a name that is taken: %v", err)
			}
			check(t, from, "other")
			check(t, to, "mine")
			if err := rename(filepath.Join(dir, "none"), to); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("of nothing: %v", err)
			}
			if err := rename(to, to); !errors.Is(err, fs.ErrExist) {
				t.Errorf("onto itself: %v", err)
			}
			check(t, to, "mine")
			must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
			if err := rename(from, filepath.Join(dir, "link")); !errors.Is(err, fs.ErrExist) {
				t.Errorf("onto a dangling symlink: %v", err)
			}
		})
	}
}

func TestLinkRenameGoesOn(t *testing.T) {
	dir := t.TempDir()
	from, to := write(t, filepath.Join(dir, "from"), "mine"), filepath.Join(dir, "to")
	must(t, os.Link(from, to)) // a crash came here
	must(t, linkPaths(from, to))
	checkNames(t, dir, "to")
	check(t, to, "mine")
}

func TestLinkRenameWithoutLinks(t *testing.T) {
	dir := t.TempDir() // a folder cannot be linked, as a file on FAT cannot
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	must(t, os.Mkdir(from, 0o755))
	must(t, linkPaths(from, to))
	must(t, os.Mkdir(from, 0o755))
	if err := linkPaths(from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto a name that is taken: %v", err)
	}
	checkNames(t, dir, "from", "to")
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, text := range []string{"first", "", "second, longer"} {
		must(t, WriteFile(Local{}, path, []byte(text), 0o600))
		check(t, path, text)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	checkNames(t, dir, "file")
}

func TestWriteFileLeavesTheOldOneOnError(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "taken")
	must(t, os.MkdirAll(filepath.Join(path, "inside"), 0o755)) // a file cannot replace it
	if err := WriteFile(Local{}, path, []byte("x"), 0o600); err == nil {
		t.Error("replaced a folder")
	}
	checkNames(t, dir, "taken")
	if err := WriteFile(Local{}, filepath.Join(dir, "none", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
}

// What stands under a temporary name is replaced, not written through.
func TestCreateFollowsNothing(t *testing.T) {
	dir := t.TempDir()
	victim := write(t, filepath.Join(dir, "victim"), "untouched")
	for name, plant := range map[string]func(string) error{
		"symlink": func(path string) error { return os.Symlink(victim, path) },
		"link":    func(path string) error { return os.Link(victim, path) },
		"pipe":    func(path string) error { return unix.Mkfifo(path, 0o600) },
		"file":    func(path string) error { return os.WriteFile(path, []byte("stale, and longer"), 0o400) },
		"nothing": func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			must(t, plant(path))
			f, err := Create(Local{}, path, 0o600)
			must(t, err)
			_, err = f.WriteString("new")
			must(t, errors.Join(err, f.Close()))
			check(t, path, "new")
			check(t, victim, "untouched")
		})
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		must(t, MkdirAll(Local{}, filepath.Join(dir, "a", "b", "c"), 0o750))
	}
	if st, err := os.Stat(filepath.Join(dir, "a", "b")); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	write(t, filepath.Join(dir, "file"), "")
	for _, bad := range []string{"file", "file/below"} {
		if err := MkdirAll(Local{}, filepath.Join(dir, bad), 0o755); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

// The name of a folder that is there already is made durable too: whoever made it may have died before.
func TestMkdirAllSyncsWhatIsThere(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b")
	must(t, os.MkdirAll(dir, 0o755))
	fsys := &syncs{FS: Beneath{root}}
	must(t, MkdirAll(fsys, dir, 0o755))
	if want := []string{root, filepath.Join(root, "a")}; !slices.Equal(fsys.dirs, want) {
		t.Errorf("synced %q, want %q", fsys.dirs, want)
	}
}

// syncs takes down which folders are synced.
type syncs struct {
	FS
	dirs []string
}

func (s *syncs) SyncDir(dir string) error {
	s.dirs = append(s.dirs, dir)
	return s.FS.SyncDir(dir)
}

func TestMove(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, errors.Join(os.Mkdir(a, 0o755), os.Mkdir(b, 0o755)))
	testMove(t, Move, a, b)
}

func TestMoveOfWhatHasBothNames(t *testing.T) {
	dir := t.TempDir()
	from, to := write(t, filepath.Join(dir, "x"), "mine"), filepath.Join(dir, "y")
	must(t, os.Link(from, to))
	must(t, Move(Local{}, from, to))
	checkNames(t, dir, "y")
	check(t, to, "mine")
}

// TestMoveAcrossFilesystems runs the copy itself where the machine has no second filesystem to move to.
func TestMoveAcrossFilesystems(t *testing.T) {
	other, err := os.MkdirTemp("/dev/shm", "stoker-test")
	if err != nil {
		testMove(t, moveAcross, t.TempDir(), t.TempDir())
		return
	}
	t.Cleanup(func() { os.RemoveAll(other) })
	testMove(t, Move, t.TempDir(), other)
}

func testMove(t *testing.T, move func(fsys FS, from, to string) error, fromDir, toDir string) {
	t.Helper()
	from, to := write(t, filepath.Join(fromDir, "x"), "mine"), filepath.Join(toDir, "x")
	modified := time.Date(2020, 1, 2, 3, 4, 5, 0, time.UTC)
	must(t, os.Chtimes(from, modified, modified))
	must(t, move(Local{}, from, to))
	checkNames(t, fromDir)
	checkNames(t, toDir, "x")
	check(t, to, "mine")
	if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o640 || !st.ModTime().Equal(modified) {
		t.Errorf("mode %v, modified %v, %v", st.Mode(), st.ModTime(), err)
	}

	write(t, from, "other")
	if err := move(Local{}, from, to); !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto a name that is taken: %v", err)
	}
	check(t, from, "other")
	check(t, to, "mine")
	checkNames(t, toDir, "x")
	if err := move(Local{}, filepath.Join(fromDir, "none"), filepath.Join(toDir, "y")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
	checkNames(t, toDir, "x")
}

func TestHash(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "x"), "abc")
	sum, n, err := Hash(Local{}, path)
	if want := SHA256("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"); sum != want || n != 3 || err != nil {
		t.Errorf("got %s, %d, %v", sum, n, err)
	}
	if _, _, err := Hash(Local{}, path+"2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}

func TestSyncDir(t *testing.T) {
	must(t, SyncDir(Local{}, t.TempDir()))
	if err := SyncDir(Local{}, filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of nothing: %v", err)
	}
}
