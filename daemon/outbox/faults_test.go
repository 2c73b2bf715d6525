package outbox

import (
	"os"
	"path/filepath"
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

// Whatever fails once on the share: the results are written anew with new descriptors, and nothing of the failed attempt
// stays.
func TestEveryFaultOfTheShareIsWaitedOut(t *testing.T) {
	faultfs.EachOnce(t, func(t *testing.T, fault *faultfs.Once) {
		bubble(t, func(r *rig) {
			share := faultfs.New(durable.Local{})
			share.Set(neverSyncsAgain(t, fault.Fails))
			b := r.complete("", "x.jsonl", three...)
			r.o.FS, r.o.Notes = share, false
			r.run()
			r.finish(b)
			if fault.Happened() && len(r.ended) == 0 && !strings.Contains(r.publisher.Status().Reason, words(fault.Errno)) {
				t.Errorf("%s: status is %+v", fault, r.publisher.Status())
			}
			r.pass(2 * maxPause)
			r.wantEnded(1)
			r.wantFiles(results...)
			if s := r.publisher.Status(); s != (Status{}) {
				t.Errorf("%s: status is %+v", fault, s)
			}
		})
	})
}

// neverSyncsAgain is a rule that watches over another one: a file whose sync failed must not be synced again.
func neverSyncsAgain(t *testing.T, rule faultfs.Rule) faultfs.Rule {
	var mu sync.Mutex
	broken := ""
	return func(op faultfs.Op, path string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == faultfs.Sync && path == broken {
			t.Errorf("%s was synced again after its sync failed", path)
		}
		if op == faultfs.Create && path == broken {
			broken = "" // another file of this name
		}
		err := rule(op, path)
		if op == faultfs.Sync && err != nil {
			broken = path
		}
		return err
	}
}

// words are what people read of a fault.
func words(errno unix.Errno) string {
	switch errno {
	case unix.ENOSPC:
		return "are needed"
	case unix.EDQUOT:
		return "the quota on"
	}
	return errno.Error()
}

// A share without room says how much is needed, and is used as soon as there is some.
func TestFullOutboxIsUsedOnceThereIsRoom(t *testing.T) {
	bubble(t, func(r *rig) {
		share := faultfs.New(durable.Local{})
		share.Set(func(op faultfs.Op, _ string) error {
			if op == faultfs.Write {
				return unix.ENOSPC
			}
			return nil
		})
		r.o.FS = share
		b := r.complete("", "x.jsonl", three...)
		size := b.Size()
		r.run()
		r.finish(b)
		s := r.publisher.Status()
		if s.Lacks == nil || s.Lacks.Need != size || s.Lacks.Dir != r.o.Dir || s.Lacks.Free == 0 {
			t.Errorf("status is %+v, lacks %+v", s, s.Lacks)
		}
		share.Set(nil)
		r.pass(roomPause)
		r.wantEnded(1)
	})
}

// An outbox that hangs keeps only the publisher; batches gather, and stopping does not wait for more than what hangs.
func TestHungOutbox(t *testing.T) {
	bubble(t, func(r *rig) {
		release := make(chan struct{})
		share := faultfs.New(durable.Local{})
		share.Set(func(op faultfs.Op, _ string) error {
			if op == faultfs.Create {
				<-release
			}
			return nil
		})
		r.o.FS = share
		a, b := r.complete("", "x.jsonl", three...), r.complete("", "y.jsonl", three...)
		r.run()
		r.finish(a)
		r.finish(b)
		r.pass(time.Hour)
		if s := r.publisher.Status(); s.Queue != 2 {
			t.Errorf("status is %+v", s)
		}
		close(release)
		r.pass(time.Second)
		r.wantEnded(2)
	})
}

// Results that somebody took as soon as they were complete do not appear again, though the share fails once after that.
func TestTakenBeforeTheLastSync(t *testing.T) {
	bubble(t, func(r *rig) {
		share := faultfs.New(durable.Local{})
		var taken atomic.Bool
		share.Set(func(o faultfs.Op, _ string) error {
			if o != faultfs.SyncDir {
				return nil
			}
			if _, err := os.Lstat(filepath.Join(r.o.Dir, "x.batch.json")); err != nil || taken.Swap(true) {
				return nil
			}
			if err := os.Rename(r.o.Dir, r.o.Dir+" taken"); err != nil {
				t.Error(err)
			}
			if err := os.Mkdir(r.o.Dir, 0o775); err != nil {
				t.Error(err)
			}
			return unix.EIO
		})
		b := r.complete("", "x.jsonl", three...)
		r.o.FS, r.o.Notes = share, false
		r.run()
		r.finish(b)
		r.pass(time.Minute)
		r.wantEnded(1)
		r.wantFiles()
	})
}

// A journal that cannot be read when its batch is to be published costs that batch, until the next start, and nobody else.
func TestUnreadableJournal(t *testing.T) {
	bubble(t, func(r *rig) {
		disk := faultfs.New(durable.Local{})
		if err := r.store.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if r.store, err = store.OpenOn(disk, filepath.Join(r.dir, "state")); err != nil {
			t.Fatal(err)
		}
		bad, good := r.complete("", "bad.jsonl", three...), r.complete("", "good.jsonl", three...)
		disk.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.Read && strings.Contains(path, bad.Meta.ID) {
				return unix.EIO
			}
			return nil
		})
		r.run()
		r.finish(bad)
		r.finish(good)
		r.wantEnded(1)
		if len(r.leftOut) != 1 || !strings.HasPrefix(r.leftOut[0], bad.Meta.ID+": ") || !strings.Contains(r.leftOut[0], unix.EIO.Error()) {
			t.Errorf("left out are %q", r.leftOut)
		}
		if s := r.publisher.Status(); s != (Status{}) {
			t.Errorf("status is %+v", s)
		}
		r.stop()
		disk.Set(nil)
		r.run()
		r.finish(r.open(bad.Meta.ID))
		r.wantEnded(2)
	})
}
