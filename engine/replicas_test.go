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
