package dispatch

import (
	"sync/atomic"
	"testing"
	"testing/synctest"

	"stoker/test/faultfs"
)

// checkpointed is how many records of a batch its last checkpoint covers.
func (r *rig) checkpointed(id string) uint32 {
	r.t.Helper()
	p, err := r.store.Progress(id)
	if err != nil {
		r.t.Fatal(err)
	}
	return p.Records()
}

// A batch that is complete is handed on at once, without a sync of the others' journals. The tick covers them, also one that
// comes while a commit is under way.
func TestCompleteBatchesDoNotWaitForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		long, short, last := r.admit("long", prompts("long", 9)...), r.admit("short", prompts("short", 1)...), r.admit("last", prompts("last", 1)...)
		r.ready(20)
		var syncs atomic.Int32
		r.disk.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.Sync {
				syncs.Add(1)
			}
			return nil
		})
		r.answer(append(r.holding("long")[:3], r.holding("short")...)...)
		if n := r.checkpointed(long); n != 0 || !r.isFinished(short) || syncs.Load() != 1 {
			t.Errorf("%d records of the long batch are checkpointed, the short one is finished: %v; %d syncs", n, r.isFinished(short), syncs.Load())
		}
		release := make(chan struct{})
		r.disk.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.Sync {
				<-release
			}
			return nil
		})
		r.answer(r.holding("last")...)
		r.tick()
		if n := r.checkpointed(long); n != 0 || r.isFinished(last) {
			t.Errorf("%d records of the long batch are checkpointed, the last one is finished: %v; before its sync", n, r.isFinished(last))
		}
		close(release)
		synctest.Wait()
		if n := r.checkpointed(long); n != 3 || !r.isFinished(last) {
			t.Errorf("%d records of the long batch are checkpointed, the last one is finished: %v; after the tick", n, r.isFinished(last))
		}
	})
}

// A tick that finds nothing new does not make the next complete batch wait for the others.
func TestIdleTickIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		long, short := r.admit("long", prompts("long", 9)...), r.admit("short", prompts("short", 1)...)
		r.ready(20)
		r.tick()
		r.tick()
		r.answer(append(r.holding("long")[:3], r.holding("short")...)...)
		if n := r.checkpointed(long); n != 0 || !r.isFinished(short) {
			t.Errorf("%d records of the long batch are checkpointed, the short one is finished: %v", n, r.isFinished(short))
		}
	})
}
