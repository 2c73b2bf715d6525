package engine

import (
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// several makes one engine of replicas that the launches start.
func several(t *testing.T, inFlight int, launches ...Launch) *replicas {
	var all []Engine
	for i, l := range launches {
		o := options(t, l)
		o.InFlight = inFlight
		o = o.replica(i + 1)
		if err := os.MkdirAll(o.LogDir, 0o700); err != nil {
			t.Fatal(err)
		}
		all = append(all, supervise(t, o))
	}
	r := newReplicas(all)
	t.Cleanup(r.Stop)
	return r
}

// allReady waits until the engine wants to hold as many requests.
func allReady(t *testing.T, r *replicas, inFlight int) {
	t.Helper()
	for nextOf[Capacity](t, r).InFlight != inFlight {
	}
}

func chats(first, n int) (requests []Request) {
	for k := range n {
		requests = append(requests, chat(Key(first+k), "x"))
	}
	return requests
}

// held is how many requests each replica holds.
func held(r *replicas) (n []int) {
	for _, s := range r.Status().Replicas {
		n = append(n, s.InFlight)
	}
	return n
}

// Requests go to the replica that has the most free places.
func TestReplicasShareTheWork(t *testing.T) {
	slow, fast := rehearsal(map[string]any{"delay": "1h"}), rehearsal(map[string]any{"delay": "1h"})
	r := several(t, 4, slow, fast, rehearsal(map[string]any{"delay": "1h"}))
	allReady(t, r, 12)
	r.Submit(chats(1, 7))
	waitForHeld(t, r, 7)
	r.Submit(chats(8, 4))
	waitForHeld(t, r, 11)
	n := held(r)
	if max(n[0], n[1], n[2]) != 4 || min(n[0], n[1], n[2]) != 3 {
		t.Errorf("replicas hold %v of 11 requests", n)
	}
	r.Cancel([]Key{1, 2, 3, 8, 9})
	waitForHeld(t, r, 6)
	if st := r.Status(); st.State != Ready || st.Capacity != 12 || st.InFlight != 6 {
		t.Errorf("status is %+v", st)
	}
}

func waitForHeld(t *testing.T, r *replicas, n int) {
	t.Helper()
	for deadline := time.Now().Add(limit); r.Status().InFlight != n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d in flight, want %d", r.Status().InFlight, n)
		}
	}
}

func TestReplicasAnswer(t *testing.T) {
	r := several(t, 0, rehearsal(nil), rehearsal(map[string]any{"fail_every": 2}))
	allReady(t, r, 640)
	r.Submit(chats(1, 500))
	got := answers(t, r, 500)
	failed := 0
	for _, a := range got {
		if a.Status == 500 {
			failed++
		}
	}
	if failed == 0 || failed > 250 {
		t.Errorf("%d of 500 requests failed, of which only one replica has every second fail", failed)
	}
	if len(r.holder) != 0 { // it waits: nothing is in flight
		t.Errorf("%d requests are thought to be in flight", len(r.holder))
	}
}

// What a replica held when it died is lost; the others go on, and get what is submitted meanwhile.
func TestDeathOfAReplica(t *testing.T) {
	r := several(t, 2, rehearsal(map[string]any{"delay": "1h"}), rehearsal(nil))
	allReady(t, r, 4)
	r.Submit(chats(1, 2))
	answers(t, r, 1)
	syscall.Kill(r.Status().Replicas[0].PID, syscall.SIGKILL)
	if c := nextOf[Capacity](t, r); c.InFlight != 2 || c.Model != "echo" {
		t.Errorf("capacity of what is left is %+v", c)
	}
	lost := nextOf[Lost](t, r)
	if !lost.Blamed || len(lost.Keys) != 1 {
		t.Errorf("lost %+v", lost)
	}
	r.Submit(chats(3, 2))
	answered := map[Key]bool{}
	for back := false; !back || len(answered) < 1; {
		switch e := next(t, r).(type) {
		case Answers:
			for _, a := range e {
				answered[a.Key] = true
			}
		case Capacity:
			back = back || e.InFlight == 4
		case Lost:
			t.Errorf("lost %+v", e)
		}
	}
	if st := r.Status(); st.Restarts != 1 || len(st.Replicas) != 2 {
		t.Errorf("status is %+v", st)
	}
}

// While no replica is ready requests come back.
func TestReplicasWithoutEngine(t *testing.T) {
	r := several(t, 0, script(t, `echo "$hello" >&4; serve`), script(t, `echo "$hello" >&4; serve`))
	waitFor(t, r, Loading)
	r.Submit(chats(1, 2))
	var back []Key
	for len(back) < 2 {
		lost := nextOf[Lost](t, r)
		if lost.Blamed {
			t.Errorf("lost %+v", lost)
		}
		back = append(back, lost.Keys...)
	}
	slices.Sort(back)
	if diff := cmp.Diff([]Key{1, 2}, back); diff != "" {
		t.Errorf("requests that came back (-want +got):\n%s", diff)
	}
}

// One replica that is ready makes the engine ready, whatever became of the others.
func TestReplicaThatCannotRun(t *testing.T) {
	r := several(t, 0, Launch{Argv: []string{"/no/such/worker"}}, rehearsal(nil))
	ready(t, r)
	waitFor(t, r, Ready)
	if st := r.Status(); st.Capacity != 320 || waitForReplica(t, r, 0, Failed).Reason == "" {
		t.Errorf("status is %+v", st)
	}
	r.Submit(chats(1, 3))
	answers(t, r, 3)
}

func waitForReplica(t *testing.T, r *replicas, i int, state State) Status {
	t.Helper()
	return waitFor(t, r.all[i].Engine, state)
}

// mute is a replica that says nothing.
type mute struct{ Engine }

func (mute) Submit([]Request) {}

// crowd is two replicas, whose dispatcher fills every place at once.
type crowd struct {
	*replicas
	inFlight int
	last     Key
}

// take has them hear an event of one of them.
func (c *crowd) take(m *member, e Event) {
	c.replicas.take(m, e)
	for _, told := range c.pending {
		switch told := told.(type) {
		case Answers:
			c.inFlight -= len(told)
		case Capacity:
			c.fill(told.InFlight)
		}
	}
	c.fill(c.told.InFlight)
	c.pending = nil
}

func (c *crowd) fill(places int) {
	var requests []Request
	for ; c.inFlight < places; c.inFlight++ {
		c.last++
		requests = append(requests, Request{Key: c.last})
	}
	c.spread(requests)
}

func (c *crowd) answer(m *member) {
	for k, holder := range c.holder {
		if holder == m {
			c.take(m, Answers{{Key: k, Status: 200}})
			return
		}
	}
}

// A replica that holds more than it is to takes no places from the other, and gives up its own.
func TestReplicaThatHoldsTooMuch(t *testing.T) {
	one, other := &member{Engine: mute{}}, &member{Engine: mute{}}
	c := &crowd{replicas: &replicas{all: []*member{one, other}, holder: map[Key]*member{}}}
	for _, m := range c.all {
		c.take(m, Capacity{InFlight: 320, Model: "m"})
	}
	c.take(one, Capacity{InFlight: 21, Model: "m"})
	for range 100 {
		c.answer(other)
	}
	if one.held != 320 || other.held != 320 {
		t.Errorf("they hold %d and %d, want 320 each", one.held, other.held)
	}
	for range 310 {
		c.answer(one)
	}
	if one.held != 21 || other.held != 320 {
		t.Errorf("they hold %d and %d, want 21 and 320", one.held, other.held)
	}
}
