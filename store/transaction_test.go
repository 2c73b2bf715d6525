package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"go.etcd.io/bbolt"
)

// put is a change that enters a name.
func put(name string) func(*bbolt.Tx) error {
	return func(tx *bbolt.Tx) error { return tx.Bucket(bucketNames).Put([]byte(name), []byte("id")) }
}

func (w *world) hasName(name string) (has bool) {
	must(w, w.db.View(func(tx *bbolt.Tx) error {
		has = tx.Bucket(bucketNames).Get([]byte(name)) != nil
		return nil
	}))
	return has
}

// Whoever writes while a commit is under way shares the next one.
func TestWritesShareACommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWorld(t)
		before := w.lastCommit()
		release := make(chan struct{})
		var all sync.WaitGroup
		write := func(change func(*bbolt.Tx) error) {
			all.Go(func() {
				if err := w.write(change); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		write(func(tx *bbolt.Tx) error {
			<-release
			return put("first")(tx)
		})
		for i := range 20 {
			write(put(fmt.Sprint(i)))
		}
		close(release)
		all.Wait()
		if n := w.lastCommit() - before; n != 2 {
			t.Errorf("%d commits, want that of the first one and that of all others", n)
		}
		for i := range 20 {
			if !w.hasName(fmt.Sprint(i)) {
				t.Errorf("what writer %d wrote is not there", i)
			}
		}
	})
}

// A change that is refused undoes itself, and nothing else of the commit that it was in.
func TestRefusedChangeLeavesTheOthers(t *testing.T) {
	w := openWorld(t)
	refusal := errors.New("refused")
	refused := &change{apply: func(tx *bbolt.Tx) error { return errors.Join(put("refused")(tx), refusal) }}
	must(t, w.writeAll([]*change{{apply: put("before")}, refused, {apply: put("after")}}))
	if !errors.Is(refused.refused, refusal) {
		t.Errorf("its caller gets %v", refused.refused)
	}
	for name, want := range map[string]bool{"before": true, "refused": false, "after": true} {
		if w.hasName(name) != want {
			t.Errorf("%q is there: %v", name, !want)
		}
	}
	before := w.lastCommit()
	must(t, w.writeAll([]*change{refused}))
	if w.lastCommit() != before {
		t.Error("a commit of nothing was made")
	}
}

// A refusal counts only once what it may be due to is durable: of two equal files that are accepted together the second must
// not go away as the duplicate of one that was not accepted after all.
func TestRefusalBesideAFailedCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := openWorld(t)
		release := make(chan struct{})
		write := func(change func(*bbolt.Tx) error) <-chan error {
			told := make(chan error, 1)
			go func() { told <- w.write(change) }()
			synctest.Wait()
			return told
		}
		first := write(func(*bbolt.Tx) error { <-release; return nil })
		made := 0
		second := write(func(*bbolt.Tx) error {
			if made++; made == 2 { // without the refused one
				panic("a page that cannot be read")
			}
			return nil
		})
		third := write(func(*bbolt.Tx) error { return &Duplicate{Of: "the one before"} })
		close(release)
		must(t, <-first)
		for _, told := range []<-chan error{second, third} {
			if err := <-told; !errors.Is(err, ErrDamagedDB) {
				t.Errorf("the commit failed, but a caller was told %v", err)
			}
		}
	})
}
