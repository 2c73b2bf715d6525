package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// dbFile is the database's file.
func (w *world) dbFile() string { return filepath.Join(w.Dir(), dbName) }

// However the database is damaged, opening it says so, and neither panics nor begins a new state.
func TestDamagedDatabase(t *testing.T) {
	for name, damage := range map[string]func(w *world){
		"lost":         func(w *world) { must(w, os.Remove(w.dbFile())) },
		"emptied":      func(w *world) { must(w, os.Truncate(w.dbFile(), 0)) },
		"cut off":      func(w *world) { must(w, os.Truncate(w.dbFile(), 3*4096)) },
		"not its own":  func(w *world) { must(w, os.WriteFile(w.dbFile(), []byte(strings.Repeat("garbage ", 4096)), 0o600)) },
		"one page off": func(w *world) { w.spoil(w.rootPage()) },
		"without instance": func(w *world) {
			w.raw(func(tx *bbolt.Tx) error { return tx.Bucket(bucketInfo).Delete(keyInstance) })
		},
		"without a bucket": func(w *world) {
			w.raw(func(tx *bbolt.Tx) error { return tx.DeleteBucket(bucketNames) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, fastDir(t))
			w.admitLines(3)
			must(t, w.Close())
			damage(w)
			for range 2 { // the first try must not leave a lock
				if s, err := Open(w.Dir()); !errors.Is(err, ErrDamagedDB) {
					t.Fatalf("open: %v, %v", s, err)
				}
				if s, err := OpenReadOnly(w.Dir()); !errors.Is(err, ErrDamagedDB) {
					t.Fatalf("open read-only: %v, %v", s, err)
				}
			}
		})
	}
}

// A page that cannot be read is found at the start, also one that holds nothing but a part of a large value.
func TestUnreadablePageOfAValue(t *testing.T) {
	w := newWorld(t, fastDir(t))
	w.putProgress(w.admitLines(1), bytes.Repeat([]byte("large checkpoint"), 4096))
	must(t, w.Close())
	d, err := openDatabase(w.dbFile(), false)
	must(t, err)
	defer d.Close()
	must(t, d.View(func(tx *bbolt.Tx) error {
		_, v := tx.Bucket(bucketProgress).Cursor().First()
		size := os.Getpagesize()
		second := 2*size - int(uintptr(unsafe.Pointer(&v[0])))%size // the first one has the key, too
		return unix.Mprotect(v[second:second+size], unix.PROT_NONE)
	}))
	if err := d.check(); !errors.Is(err, ErrDamagedDB) {
		t.Errorf("check: %v", err)
	}
}

// BenchmarkOpen is what a start reads of a database: all of it.
func BenchmarkOpen(b *testing.B) {
	w := newWorld(b, fastDir(b))
	w.enterEnded(10_000)
	must(b, w.Close())
	for b.Loop() {
		d, err := openDatabase(w.dbFile(), true)
		must(b, err)
		must(b, d.Close())
	}
}

// raw changes the database of a closed state.
func (w *world) raw(change func(tx *bbolt.Tx) error) {
	w.Helper()
	db, err := bbolt.Open(w.dbFile(), 0o600, nil)
	must(w, err)
	must(w, db.Update(change))
	must(w, db.Close())
}

// rootPage is the page of the buckets' names.
func (w *world) rootPage() int {
	w.Helper()
	page := 0
	w.raw(func(tx *bbolt.Tx) error {
		for id := 0; ; id++ {
			p, err := tx.Page(id)
			if err != nil || p == nil {
				return err
			}
			if p.Type == "leaf" {
				page = id
			}
		}
	})
	return page
}

// spoil overwrites a page of the database.
func (w *world) spoil(page int) {
	w.Helper()
	w.edit(w.dbFile(), func(b []byte) []byte {
		copy(b[page*4096:], strings.Repeat("\xff", 4096))
		return b
	})
}

// Random garbage anywhere in the file never ends the process: what opens can be listed. (With the race detector Go's
// check of pointers does, if it meets them in bbolt: the Makefile says how to leave that out.)
func TestGarbageInTheDatabase(t *testing.T) {
	w := newWorld(t, fastDir(t))
	for i := range 40 {
		w.admit(w.drop(fmt.Sprint(i, ".jsonl"), lines(1)))
	}
	must(t, w.Close())
	whole, err := os.ReadFile(w.dbFile())
	must(t, err)
	random, opened, refused := rand.New(rand.NewPCG(1, 4)), 0, 0
	for range 300 {
		b := append([]byte{}, whole...)
		at, n := random.IntN(len(b)), 1+random.IntN(600)
		for i := at; i < min(at+n, len(b)); i++ {
			b[i] = byte(random.Uint32())
		}
		must(t, os.WriteFile(w.dbFile(), b, 0o600))
		s, err := Open(w.Dir())
		if errors.Is(err, ErrDamagedDB) {
			refused++
			continue
		}
		must(t, err)
		opened++
		records, err := s.List()
		must(t, err)
		_, bad, err := s.Census()
		must(t, err)
		if len(records)+len(bad) != 40 {
			t.Errorf("garbage of %d bytes at %d: %d records and %d that cannot be read", n, at, len(records), len(bad))
		}
		must(t, s.Close())
	}
	if opened == 0 || refused == 0 {
		t.Errorf("%d opened, %d refused", opened, refused)
	}
}

// A file that is cut off under an open database is an error of whoever reads, and of all that come after.
func TestDatabaseCutOffWhileOpen(t *testing.T) {
	w := newWorld(t, fastDir(t))
	for i := range 200 {
		w.admit(w.drop(fmt.Sprint(i, ".jsonl"), lines(1)))
	}
	must(t, os.Truncate(w.dbFile(), 4096))
	if _, err := w.List(); !errors.Is(err, ErrDamagedDB) {
		t.Errorf("list: %v", err)
	}
	if err := w.SetArchived(NewID()); !errors.Is(err, ErrDamagedDB) {
		t.Errorf("update: %v", err)
	}
	must(t, w.Close())
}

// A record that cannot be read costs itself.
func TestBadRecord(t *testing.T) {
	for name, value := range map[string]string{"no JSON": "{", "another batch's": `{"id":"batch_x","state":"completed"}`, "no state": "{}"} {
		t.Run(name, func(t *testing.T) {
			w := openWorld(t)
			good, bad := w.admitLines(1), w.admitLines(2)
			must(t, w.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketBatches).Put([]byte(bad), []byte(value)) }))
			must(t, w.Close())
			s, err := Open(w.Dir())
			must(t, err)
			w.Store = s
			records, err := w.List()
			must(t, err)
			if len(records) != 1 || records[0].ID != good {
				t.Errorf("records %+v", records)
			}
			if states, got, err := w.Census(); err != nil || states[records[0].State] != 1 || len(states) != 1 || len(got) != 1 || got[0].ID != bad {
				t.Errorf("states %v, bad records %+v, %v", states, got, err)
			}
			if _, err := w.OpenBatch(context.Background(), bad); !errors.Is(err, errBadRecord) {
				t.Errorf("open: %v", err)
			}
			w.finish(good, life{inputOrder: true})
		})
	}
}

// The instance outlives the database, and a state from before there was a file gets one.
func TestInstanceIsKept(t *testing.T) {
	w := newWorld(t, fastDir(t))
	instance := w.Instance()
	must(t, w.Close())
	must(t, os.Remove(w.dbFile()))
	reopen := func() {
		s, err := Open(w.Dir())
		must(t, err)
		if s.Instance() != instance {
			t.Errorf("instance is %s, was %s", s.Instance(), instance)
		}
		must(t, s.Close())
	}
	reopen()
	for _, content := range []string{"", "nonsense\n"} {
		must(t, os.WriteFile(filepath.Join(w.Dir(), instanceFile), []byte(content), 0o600))
		reopen()
		if kept, err := readInstance(w.Dir()); err != nil || kept != instance {
			t.Errorf("kept %q, %v", kept, err)
		}
	}
}

// The state folder belongs to one process also while its database is missing.
func TestLockOutlivesTheDatabase(t *testing.T) {
	w := openWorld(t)
	must(t, os.Remove(w.dbFile()))
	if _, err := Open(w.Dir()); !errors.Is(err, ErrInUse) {
		t.Errorf("open: %v", err)
	}
}
