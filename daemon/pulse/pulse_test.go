package pulse

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	patience = 30 * time.Second
	every    = 10 * time.Second
)

// owner is a loop as stoker's are, which does what it is given between two waits.
type owner struct {
	*Pulse
	work chan func()
}

func run(t *testing.T) owner {
	o := owner{New(), make(chan func())}
	go func() {
		for {
			o.Beat()
			select {
			case <-o.Asked():
			case work, open := <-o.work:
				if !open {
					return
				}
				work()
			}
		}
	}()
	t.Cleanup(func() { close(o.work) })
	return o
}

// looks lets time pass and returns who hung at the last look.
func looks(m *Monitor, d time.Duration) (names []string) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		synctest.Wait()
		names = nil
		for _, h := range m.Look() {
			names = append(names, h.Name)
		}
		time.Sleep(every)
	}
	return names
}

func never() bool { return false }

func want(t *testing.T, got []string, hung ...string) {
	t.Helper()
	if diff := cmp.Diff(hung, got); diff != "" {
		t.Errorf("hung (-want +got):\n%s", diff)
	}
}

func TestIdleOwnerAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want(t, looks(NewMonitor(patience, every, never, Owner{Name: "a", Pulse: run(t).Pulse}), time.Hour))
	})
}

func TestHungOwnerIsFoundAndItsEndToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := run(t), run(t)
		m := NewMonitor(patience, every, never, Owner{Name: "a", Pulse: a.Pulse}, Owner{Name: "b", Pulse: b.Pulse})
		looks(m, time.Minute)
		release := make(chan struct{})
		a.work <- func() { <-release }
		want(t, looks(m, patience))
		want(t, looks(m, 2*every), "a")
		close(release)
		want(t, looks(m, 2*every))
	})
}

// Owners that were stopped together with whoever looks do not hang, in the middle of whatever they were; a hang is found
// all the same.
func TestProcessIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := run(t)
		m := NewMonitor(patience, every, never, Owner{Name: "a", Pulse: a.Pulse})
		looks(m, time.Minute)
		release := make(chan struct{})
		a.work <- func() { <-release }
		want(t, looks(m, patience-every))
		time.Sleep(time.Hour)
		want(t, looks(m, patience))
		want(t, looks(m, 2*every), "a")
		time.Sleep(time.Hour)
		want(t, looks(m, every), "a") // it did so before
		close(release)
		want(t, looks(m, 2*every))
	})
}

// A call to a share that does not come back is no hang, however long; what comes after it may be one.
func TestStorageIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := run(t)
		m := NewMonitor(patience, every, never, Owner{Name: "a", Pulse: a.Pulse})
		share, release := make(chan struct{}), make(chan struct{})
		a.work <- func() {
			a.Begin()
			<-share
			a.End()
			<-release
		}
		want(t, looks(m, 24*time.Hour))
		close(share)
		want(t, looks(m, patience))
		want(t, looks(m, 2*every), "a")
		close(release)
	})
}

// A turn of many calls, each of which ends, is work.
func TestSlowTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := run(t)
		m := NewMonitor(patience, every, never, Owner{Name: "a", Pulse: a.Pulse})
		a.work <- func() {
			for range 800 {
				a.Begin()
				time.Sleep(3 * time.Second)
				a.End()
				time.Sleep(time.Second)
			}
		}
		want(t, looks(m, time.Hour))
	})
}

func TestLongStepsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := run(t)
		m := NewMonitor(patience, every, never, Owner{Name: "a", Pulse: a.Pulse})
		release := make(chan struct{})
		a.work <- func() {
			defer a.Long()()
			<-release
		}
		want(t, looks(m, longest))
		want(t, looks(m, patience+2*every), "a")
		close(release)
		want(t, looks(m, 2*every))
	})
}

// Of several long steps the end of one is not that of the others.
func TestLongStepsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := run(t)
		m := NewMonitor(patience, every, never, Owner{Name: "a", Pulse: a.Pulse})
		release := make(chan struct{})
		a.work <- func() {
			short, long := a.Long(), a.Long()
			short()
			<-release
			long()
			<-release
		}
		want(t, looks(m, longest))
		release <- struct{}{}
		want(t, looks(m, patience+2*every), "a")
		close(release)
		want(t, looks(m, 2*every))
	})
}

// Who waits for another owner's long step does not hang, and neither does anybody while the state is slow.
func TestWaitingForOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := run(t), run(t)
		stalled := false // only used by this goroutine, which looks
		m := NewMonitor(patience, every, func() bool { return stalled },
			Owner{Name: "a", Pulse: a.Pulse}, Owner{Name: "b", Pulse: b.Pulse, After: a.Pulse})
		release := make(chan struct{})
		end := a.Long()
		b.work <- func() { <-release }
		want(t, looks(m, 10*time.Minute))
		end()
		stalled = true
		want(t, looks(m, time.Hour))
		stalled = false
		want(t, looks(m, patience+2*every), "b")
		close(release)
	})
}

func TestAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, done := New(), make(chan struct{})
		var hangs atomic.Bool
		release := make(chan struct{})
		go p.Answer(done, func() {
			if hangs.Load() {
				<-release
			}
		})
		m := NewMonitor(patience, every, never, Owner{Name: "engine", Pulse: p})
		want(t, looks(m, time.Hour))
		hangs.Store(true)
		want(t, looks(m, patience+2*every), "engine")
		close(release)
		close(done)
	})
}

func TestNobodysPulse(t *testing.T) {
	var p *Pulse
	p.Beat()
	p.Begin()
	p.End()
	p.Long()()
	if p.Asked() != nil {
		t.Error("somebody asks nobody")
	}
}
