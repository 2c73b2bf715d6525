package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"stoker/store/durable"
	"stoker/store/journal"
	"stoker/test/faultfs"
)

// faultyWorld is a world whose batch folders fail when the test says so.
func faultyWorld(t *testing.T) (*world, *faultfs.FS) {
	t.Helper()
	dir, faulty := t.TempDir(), faultfs.New(durable.Local{})
	must(t, os.MkdirAll(filepath.Join(dir, "outbox"), 0o755))
	s, err := OpenOn(faulty, filepath.Join(dir, "state"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return &world{TB: t, Store: s, dir: dir}, faulty
}

// life admits a file, answers it and ends its batch, as far as that goes.
func (w *world) life(name string) error {
	r, err := w.Admit(context.Background(), w.drop(name, "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n"))
	if err != nil {
		return err
	}
	b, err := w.OpenBatch(context.Background(), r.ID)
	if err != nil {
		return err
	}
	return errors.Join(w.complete(b), b.Close())
}

// complete records all requests, commits and ends the batch.
func (w *world) complete(b *Batch) error {
	for seq, ok := b.Next(); ok; seq, ok = b.Next() {
		if _, err := b.Append(journal.Frame{Kind: journal.KindOutput, Seq: seq, Payload: []byte(`{}`)}); err != nil {
			return err
		}
	}
	c, err := b.Checkpoint(Engine{Kind: "echo"})
	if err == nil {
		err = w.Commit([]Checkpoint{c})
	}
	if err == nil {
		err = b.Finalize()
	}
	if err == nil {
		err = b.Publish(&Publication{Name: b.Meta.Name, State: Completed, InputOrder: true})
	}
	if err == nil {
		err = b.End()
	}
	return err
}

// Each write and each sync of a batch's life fails once, with each errno. The first fault is remembered and nothing is
// written or synced after it, so that no second sync can claim what the first one lost.
func TestFaultsOfTheStateAreFinal(t *testing.T) {
	ops := []faultfs.Op{faultfs.Create, faultfs.Mkdir, faultfs.Write, faultfs.Sync, faultfs.SyncDir, faultfs.Rename}
	for _, op := range ops {
		for _, errno := range []unix.Errno{unix.EIO, unix.ENOSPC} {
			if isWaitedFor(op, errno) {
				continue // TestFullStateIsWaitedFor
			}
			for nth := 1; ; nth++ {
				w, faulty := faultyWorld(t)
				seen, after := 0, 0
				faulty.Set(func(o faultfs.Op, path string) error {
					if seen >= nth && changes(o) {
						after++
					}
					if o != op {
						return nil
					}
					if seen++; seen == nth {
						return errno
					}
					return nil
				})
				err := w.life("x.jsonl")
				if seen < nth {
					must(t, err)
					break // this was the last one
				}
				var final *FinalError
				if !errors.As(err, &final) || !errors.As(w.Fault(), &final) || !errors.Is(final.Cause(), errno) {
					t.Errorf("%s %d failed with %v: the error is %v, the fault %v", op, nth, errno, err, w.Fault())
				}
				if durable.IsFull(err) {
					t.Errorf("%s %d failed with %v, which would be waited for: %v", op, nth, errno, err)
				}
				select {
				case <-w.Faulted():
				default:
					t.Errorf("%s %d failed with %v, and nobody was told", op, nth, errno)
				}
				if err := w.life("y.jsonl"); !errors.As(err, &final) {
					t.Errorf("after %s %d failed with %v: %v", op, nth, errno, err)
				}
				if after > 0 {
					t.Errorf("after %s %d failed with %v, %d more writes or syncs were tried", op, nth, errno, after)
				}
			}
		}
	}
}

func changes(op faultfs.Op) bool {
	switch op {
	case faultfs.Open, faultfs.Stat, faultfs.ReadDir, faultfs.Read, faultfs.Close:
		return false
	}
	return true
}

func isWaitedFor(op faultfs.Op, errno unix.Errno) bool {
	return durable.IsFull(errno) && op != faultfs.Sync && op != faultfs.SyncDir
}

// A state without room is no fault: what failed leaves nothing behind and may be tried again.
func TestFullStateIsWaitedFor(t *testing.T) {
	for _, op := range []faultfs.Op{faultfs.Create, faultfs.Mkdir, faultfs.Write, faultfs.Rename} {
		for _, errno := range []unix.Errno{unix.ENOSPC, unix.EDQUOT} {
			for nth := 1; ; nth++ {
				w, faulty := faultyWorld(t)
				a := w.drop("x.jsonl", "{\"prompt\":\"a\"}\n")
				seen := 0
				faulty.Set(func(o faultfs.Op, path string) error {
					if o == op {
						seen++
					}
					if o == op && seen == nth {
						return errno
					}
					return nil
				})
				_, err := w.Admit(context.Background(), a)
				if seen < nth {
					must(t, err)
					break
				}
				var full *durable.FullError
				if !errors.As(err, &full) || full.Dir != w.Dir() || full.Need <= 0 {
					t.Errorf("%s %d failed with %v: %v", op, nth, errno, err)
				}
				if left, _ := os.ReadDir(w.batchDir(a.ID)); len(left) > 0 {
					t.Errorf("%s %d failed with %v, and left %v", op, nth, errno, left)
				}
				faulty.Set(nil)
				r, err := w.Admit(context.Background(), a)
				must(t, err)
				must(t, w.Fault())
				b, err := w.OpenBatch(context.Background(), r.ID)
				must(t, err)
				must(t, errors.Join(w.complete(b), b.Close()))
			}
		}
	}
}

// An input that cannot be read is the share's fault, whatever is wrong there.
func TestFaultsOfTheShareAreNotTheStates(t *testing.T) {
	for _, op := range []faultfs.Op{faultfs.Open, faultfs.Stat, faultfs.Read} {
		for _, errno := range []unix.Errno{unix.EIO, unix.ESTALE, unix.ENOTCONN, unix.EACCES, unix.ETIMEDOUT} {
			w, _ := faultyWorld(t)
			share := faultfs.New(durable.Local{})
			a := w.drop("x.jsonl", "{\"prompt\":\"a\"}\n")
			a.FS = share
			share.Set(func(o faultfs.Op, path string) error {
				if o == op {
					return errno
				}
				return nil
			})
			if _, err := w.Admit(context.Background(), a); !errors.Is(err, errno) || w.Fault() != nil {
				t.Errorf("%s failed with %v: %v, fault %v", op, errno, err, w.Fault())
			}
			share.Set(nil)
			if _, err := w.Admit(context.Background(), a); err != nil {
				t.Errorf("once %s works again: %v", op, err)
			}
		}
	}
}

// A copy stops before it uses up what checkpoints need, and says how much it would have needed.
func TestSnapshotLeavesTheReserve(t *testing.T) {
	w := openWorld(t)
	const total, free = 64 << 20, 10 << 20
	w.space = func(dir string) (durable.Space, error) {
		var used int64
		filepath.Walk(filepath.Join(dir, "batches"), func(_ string, st os.FileInfo, err error) error {
			if err == nil && !st.IsDir() {
				used += st.Size()
			}
			return nil
		})
		return durable.Space{Free: free - used, Total: total}, nil
	}
	content := strings.Repeat(`{"prompt":"`+strings.Repeat("x", 200)+"\"}\n", 64<<10)
	a := w.drop("x.jsonl", content)
	_, err := w.Admit(context.Background(), a)
	var full *durable.FullError
	if !errors.As(err, &full) {
		t.Fatalf("a file of %d bytes fits into %d: %v", len(content), free, err)
	}
	want := int64(len(content)) + 64<<10*(rowSize+12)
	if full.Need < want*9/10 || full.Need > want*11/10 {
		t.Errorf("says that %d bytes are needed, they are %d", full.Need, want)
	}
	if err := w.Room(free - total/reserveShare); err != nil {
		t.Errorf("the copy is gone, but: %v", err)
	}
	if err := w.Room(free); !durable.IsFull(err) {
		t.Errorf("the reserve was given away: %v", err)
	}
}

// A database without room for a commit is as it was, and commits once there is.
func TestFullDatabaseIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=3m"))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	w := newWorld(t, dir)
	defer w.Close()
	w.space = func(string) (durable.Space, error) { return durable.Space{Free: 1 << 40, Total: 1 << 40}, nil } // nothing stops it before the wall
	fill := filepath.Join(dir, "fill")
	n, full := 0, 0
	for ; full < 3; n++ {
		must(t, os.WriteFile(fill, nil, 0o600))
		r, err := w.Admit(context.Background(), w.drop("x.jsonl", "{\"prompt\":\""+NewID()+"\"}\n"))
		must(t, err)
		for size := 1 << 20; size > 0; size /= 2 { // to the last block
			f, err := os.OpenFile(fill, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			for err == nil {
				_, err = f.Write(make([]byte, size))
			}
			f.Close()
		}
		_, err = w.update(r.ID, func(tx *bbolt.Tx, r *Record) error {
			r.Engines = []Engine{{Kind: strings.Repeat("x", 200<<10)}}
			return nil
		})
		if err != nil && (!durable.IsFull(err) || w.Fault() != nil) {
			t.Fatalf("a commit that found no room: %v, fault %v", err, w.Fault())
		}
		if err == nil {
			t.Fatal("the commit found room")
		}
		full++
		must(t, os.Remove(fill))
		if _, err = w.update(r.ID, func(_ *bbolt.Tx, r *Record) error { r.Suspects = 7; return nil }); err != nil {
			t.Fatalf("a commit that has room again: %v", err)
		}
		got, err := w.Get(r.ID)
		must(t, err)
		if got.Suspects != 7 || len(got.Engines) != 0 {
			t.Errorf("the record is %+v", got)
		}
	}
	must(t, w.db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Error(err)
		}
		return nil
	}))
}

// A state on a read-only filesystem is refused in words.
func TestReadOnlyState(t *testing.T) {
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	must(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, "size=1m"))
	for _, state := range []string{dir, filepath.Join(dir, "state")} {
		if _, err := Open(state); !errors.Is(err, ErrReadOnly) || !strings.Contains(err.Error(), state) {
			t.Errorf("open %s: %v", state, err)
		}
	}
}

// A state that somebody removed or replaced while it is open is final: what is written into it belongs to no name.
func TestStateRemoved(t *testing.T) {
	for name, remove := range map[string]func(w *world) error{
		"database":          func(w *world) error { return os.Remove(w.dbFile()) },
		"folder":            func(w *world) error { return os.RemoveAll(w.Dir()) },
		"folder moved":      func(w *world) error { return os.Rename(w.Dir(), w.Dir()+".old") },
		"folder replaced":   func(w *world) error { return errors.Join(os.Rename(w.Dir(), w.Dir()+".old"), os.Mkdir(w.Dir(), 0o700)) },
		"database replaced": func(w *world) error { return errors.Join(os.Remove(w.dbFile()), os.WriteFile(w.dbFile(), nil, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := openWorld(t)
			must(t, w.CheckPlace())
			must(t, remove(w))
			if err := w.CheckPlace(); !errors.Is(err, ErrRemoved) {
				t.Errorf("error %v", err)
			}
			if err := w.SetArchived("x"); !errors.Is(err, ErrRemoved) {
				t.Errorf("it was written to: %v", err)
			}
			<-w.Faulted()
		})
	}
}
