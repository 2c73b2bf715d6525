package durable

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A hook is told what is asked, and what comes of it goes to who asked.
func TestAround(t *testing.T) {
	dir := t.TempDir()
	x, y, sub := filepath.Join(dir, "x"), filepath.Join(dir, "y"), filepath.Join(dir, "sub")
	var calls []Call
	fsys := Around(Local{}, func(c Call, do func() error) error {
		calls = append(calls, c)
		return do()
	})
	want := func(all ...Call) {
		t.Helper()
		if diff := cmp.Diff(all, calls); diff != "" {
			t.Errorf("the hook was told (-want +got):\n%s", diff)
		}
		calls = nil
	}

	f, err := fsys.OpenFile(x, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	n, err := f.Write([]byte("ab"))
	must(t, err)
	m, err := f.WriteAt([]byte("cd"), 1)
	must(t, err)
	k, err := f.WriteString("")
	must(t, err)
	b := make([]byte, 4)
	r, readErr := f.ReadAt(b, 0)
	if n != 2 || m != 2 || k != 0 || string(b[:r]) != "acd" || readErr == nil {
		t.Errorf("wrote %d, %d and %d bytes, read %q, %v", n, m, k, b[:r], readErr)
	}
	_, err = f.Read(b)
	must(t, err)
	st, err := f.Stat()
	must(t, errors.Join(err, f.Truncate(1), f.Chmod(0o600), f.Chown(-1, -1), f.Chtime(time.Now()), f.Sync(), f.Datasync(), f.Close()))
	if st.Size() != 3 {
		t.Errorf("the file has %d bytes", st.Size())
	}
	want(Call{Op: OpCreate, Path: x},
		Call{OpWrite, x, "", true}, Call{OpWrite, x, "", true}, Call{OpWrite, x, "", true}, Call{OpRead, x, "", true}, Call{OpRead, x, "", true},
		Call{OpStat, x, "", true}, Call{OpTruncate, x, "", true}, Call{OpChmod, x, "", true}, Call{OpChown, x, "", true},
		Call{OpChtime, x, "", true}, Call{OpSync, x, "", true}, Call{OpSync, x, "", true}, Call{OpClose, x, "", true})

	must(t, errors.Join(fsys.Mkdir(sub, 0o700), fsys.Rename(x, y), fsys.RenameNew(y, x), fsys.SyncDir(dir)))
	st, err = fsys.Stat(x)
	_, lerr := fsys.Lstat(y)
	entries, derr := fsys.ReadDir(dir)
	must(t, errors.Join(err, derr, fsys.Remove(x), fsys.RemoveAll(sub)))
	if st.Size() != 1 || !errors.Is(lerr, os.ErrNotExist) || len(entries) != 2 {
		t.Errorf("%d bytes, %v, %v", st.Size(), lerr, entries)
	}
	want(Call{Op: OpMkdir, Path: sub}, Call{Op: OpRename, Path: y, From: x}, Call{Op: OpRename, Path: x, From: y}, Call{Op: OpSyncDir, Path: dir},
		Call{Op: OpStat, Path: x}, Call{Op: OpStat, Path: y}, Call{Op: OpReadDir, Path: dir}, Call{Op: OpRemove, Path: x}, Call{Op: OpRemove, Path: sub})

	if f, err := fsys.OpenFile(x, os.O_RDONLY, 0); f != nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("opened %v, %v", f, err)
	}
	f, err = fsys.Scratch(dir)
	must(t, errors.Join(err, f.Close()))
	want(Call{Op: OpOpen, Path: x}, Call{Op: OpCreate, Path: dir}, Call{OpClose, f.Name(), "", true})
}

// Nothing gets past a hook that refuses it but a file's name, whatever else a filesystem may be asked one day.
func TestAroundRefuses(t *testing.T) {
	refused := errors.New("refused")
	below, err := Local{}.Scratch(t.TempDir())
	must(t, err)
	must(t, below.Close())
	hook := func(Call, func() error) error { return refused }
	for _, asked := range []any{Around(nil, hook), &hookedFile{below, hook}} {
		for method, do := range reflect.ValueOf(asked).Methods() {
			if method.Name == "Name" {
				continue
			}
			args := make([]reflect.Value, do.Type().NumIn())
			for i := range args {
				args[i] = reflect.Zero(do.Type().In(i))
			}
			results := do.Call(args)
			if err := results[len(results)-1].Interface(); err != refused {
				t.Errorf("%s: %v", method.Name, err)
			}
		}
	}
}
