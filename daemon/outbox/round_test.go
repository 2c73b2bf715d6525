package outbox

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
	"stoker/test/faultfs"
)

// completeAll makes batches that are to be published together.
func (r *rig) completeAll(n int) (all []*store.Batch) {
	for i := range n {
		all = append(all, r.complete("", fmt.Sprintf("f%d.jsonl", i), three...))
	}
	return all
}

// Batches that end together share the syncs of the outbox.
func TestRoundSharesSyncs(t *testing.T) {
	bubble(t, func(r *rig) {
		syncs := 0
		faulty := faultfs.New(durable.Local{})
		faulty.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.SyncDir && path == r.o.Dir {
				syncs++ // never two at a time
				time.Sleep(time.Millisecond)
			}
			return nil
		})
		batches := r.completeAll(atOnce)
		r.o.FS = faulty
		r.run(batches...)
		r.pass(time.Second)
		r.wantEnded(atOnce)
		if syncs > atOnce/2 {
			t.Errorf("%d batches made %d syncs of the outbox; one makes 2", atOnce, syncs)
		}
	})
}

// What fails in a round costs itself: the others end, and it is tried again.
func TestRoundWithAFailure(t *testing.T) {
	bubble(t, func(r *rig) {
		batches := r.completeAll(3)
		var mended atomic.Bool
		faulty := faultfs.New(durable.Local{})
		faulty.Set(func(op faultfs.Op, path string) error {
			if !mended.Load() && op == faultfs.Create && strings.Contains(path, batches[1].Meta.ID) {
				return unix.EIO
			}
			return nil
		})
		r.o.FS = faulty
		r.run(batches...)
		r.pass(time.Second / 2)
		r.wantEnded(2)
		if s := r.publisher.Status(); s.Queue != 1 || !strings.Contains(s.Reason, "input/output error") {
			t.Errorf("status is %+v", s)
		}
		mended.Store(true)
		r.pass(time.Minute)
		r.wantEnded(3)
		if s := r.publisher.Status(); s.Queue != 0 || s.Reason != "" {
			t.Errorf("status is %+v", s)
		}
	})
}

// Of batches that find no room together those that fit alone end.
func TestRoundWithoutRoom(t *testing.T) {
	bubble(t, func(r *rig) {
		batches := r.completeAll(4)
		var mu sync.Mutex
		beside := map[string]int{} // how many are written when a file is
		faulty := faultfs.New(durable.Local{})
		faulty.Set(func(op faultfs.Op, path string) error {
			if !strings.HasPrefix(path, r.o.Dir) || !strings.Contains(path, ".output.jsonl") {
				return nil
			}
			if op == faultfs.Create || op == faultfs.Sync {
				time.Sleep(time.Millisecond) // until all have come here
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case op == faultfs.Create:
				for other := range beside {
					beside[other]++
				}
				beside[path] = len(beside)
			case op == faultfs.Sync && beside[path] > 0:
				return unix.ENOSPC
			case op == faultfs.Remove || op == faultfs.Rename:
				delete(beside, strings.TrimSuffix(path, ".part")+".part")
			}
			return nil
		})
		r.o.FS = faulty
		r.run(batches...)
		r.pass(5 * time.Minute)
		r.wantEnded(4)
	})
}
