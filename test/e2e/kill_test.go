package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"stoker/test/rig"
)

// storm is one large file, and small ones that arrive between the kills.
type storm struct {
	home  *rig.Home
	rand  *rand.Rand
	large rig.Input
	small []rig.Input
}

const (
	rounds     = 20
	smallFiles = 200
)

func newStorm(t *testing.T, binary string) *storm {
	s := &storm{home: rig.NewHome(t, binary, rig.Config+"delay = \"120ms\"\n"), rand: rig.Random(t), large: rig.Input{Name: "large.jsonl", Lines: rig.Good("large", 20_000)}}
	for i := range smallFiles {
		lines := rig.Good(fmt.Sprintf("small-%d", i), 10)
		if i%10 == 0 {
			lines = slices.Concat(lines, rig.Bad(fmt.Sprintf("small-%d", i)))
		}
		s.small = append(s.small, rig.Input{Name: fmt.Sprintf("queue-%d/small-%d.jsonl", i%3, i), Lines: lines})
	}
	s.home.Drop(s.large.Name, s.large.Content())
	return s
}

// arrive drops the small files of one round.
func (s *storm) arrive(round, of int) {
	for _, in := range s.small[round*len(s.small)/of : (round+1)*len(s.small)/of] {
		s.home.Drop(in.Name, in.Content())
	}
}

// moment is up to a second of work.
func (s *storm) moment() { time.Sleep(time.Duration(s.rand.Int64N(int64(time.Second)))) }

// inFlight is what the rehearsal engine holds at most: 1.25 times its batch size of 256.
const inFlight = 320

// end waits until all has ended, and judges it. Each kill may cost what was in flight, not more.
func (s *storm) end(t *testing.T, kills int) error {
	if err := s.home.AwaitIdle(); err != nil {
		return err
	}
	if err := s.home.Stop(); err != nil {
		return err
	}
	v, err := s.home.Verify()
	t.Logf("lines redone: %d", v.Redone)
	if v.Redone > int64(kills*inFlight) {
		err = errors.Join(err, fmt.Errorf("%d lines redone after %d kills with at most %d in flight", v.Redone, kills, inFlight))
	}
	return errors.Join(err, s.home.Judge(append(s.small, s.large)...))
}

// TestKillTheDaemon is kill -9 at random moments: each line runs to its one result, however often.
func TestKillTheDaemon(t *testing.T) {
	t.Parallel()
	s := newStorm(t, rig.Released)
	n := rounds
	if testing.Short() {
		n = 5
	}
	alive := 0
	for round := range n {
		s.home.Start()
		s.arrive(round, n)
		s.moment()
		if !s.home.Idle() {
			alive++
		}
		s.home.Kill()
	}
	if alive < n/2 {
		t.Errorf("only %d of %d kills came while there was work: make more of it", alive, n)
	}
	s.home.Start()
	if err := s.end(t, n); err != nil {
		t.Error(err)
	}
}

// TestKillTheWorker is kill -9 of the engine alone, again and again, under a daemon that lives on.
func TestKillTheWorker(t *testing.T) {
	t.Parallel()
	s := newStorm(t, rig.Released)
	s.home.Start()
	n := rounds / 2
	if testing.Short() {
		n = 3
	}
	for round := range n {
		s.arrive(round, n)
		if err := s.home.Await("a worker", func() bool { return s.home.Worker() != 0 }); err != nil {
			t.Fatal(err)
		}
		s.moment()
		if pid := s.home.Worker(); pid != 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if err := s.end(t, n); err != nil {
		t.Error(err)
	}
}
