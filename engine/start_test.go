package engine

import (
	"os"
	"slices"
	"syscall"
	"testing"

	"stoker/engine/processes"
)

// What is alive of a replica that is no more is left over, whether stoker runs, with one replica or several, or not.
func TestLeftoversOfFormerReplicas(t *testing.T) {
	for _, n := range []int{1, 2} {
		o := options(t, rehearsal(nil))
		former := o.replica(3)
		if err := os.MkdirAll(former.LogDir, 0o700); err != nil {
			t.Fatal(err)
		}
		s, err := Start(o, n)
		if err != nil {
			t.Fatal(err)
		}
		for ev := range s.Events() {
			if c, ok := ev.(Capacity); ok && c.InFlight > 0 {
				break
			}
		}
		worker, orphan := launch(t, former.marks(), namelessChild) // after the sweep that comes before any worker
		if err := former.marks().RecordGroup(worker.child.PID()); err != nil {
			t.Fatal(err)
		}
		syscall.Kill(worker.child.PID(), syscall.SIGKILL)
		<-worker.child.Exited()
		isLeft := func(left []processes.Process, err error) bool {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(left, func(p processes.Process) bool { return p.PID == orphan })
		}
		if !isLeft(s.Leftovers()) {
			t.Errorf("beside %d replicas process %d of the third one is not found", n, orphan)
		}
		s.Stop()
		if !isLeft(AllLeftovers(o.Instance, o.LogDir)) {
			t.Errorf("without a stoker process %d of the third replica is not found", orphan)
		}
		if err := worker.child.Tree().Kill(); err != nil {
			t.Error(err)
		}
		if isLeft(s.Leftovers()) || isLeft(AllLeftovers(o.Instance, o.LogDir)) {
			t.Errorf("process %d is found, but was killed", orphan)
		}
	}
}
