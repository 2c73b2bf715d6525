package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// seedVar names the environment variable that draws the kills of a run before again.
const seedVar = "E2E_SEED"

// kills draws the moments at which something dies, and tells from which seed.
func kills(t *testing.T) *rand.Rand {
	seed, err := strconv.ParseUint(os.Getenv(seedVar), 10, 64)
	if err != nil {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("drawn with %s=%d", seedVar, seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// storm is one large file, and small ones that arrive between the kills.
type storm struct {
	home  *home
	rand  *rand.Rand
	large input
	small []input
}

const (
	rounds     = 20
	smallFiles = 200
)

func newStorm(t *testing.T, binary string) *storm {
	s := &storm{home: newHome(t, binary, config+"delay = \"120ms\"\n"), rand: kills(t), large: input{name: "large.jsonl", lines: good("large", 20_000)}}
	for i := range smallFiles {
		lines := good(fmt.Sprintf("small-%d", i), 10)
		if i%10 == 0 {
			lines = concat(lines, bad(fmt.Sprintf("small-%d", i)))
		}
		s.small = append(s.small, input{name: fmt.Sprintf("queue-%d/small-%d.jsonl", i%3, i), lines: lines})
	}
	s.home.drop(s.large.name, s.large.content())
	return s
}

// arrive drops the small files of one round.
func (s *storm) arrive(round, of int) {
	for _, in := range s.small[round*len(s.small)/of : (round+1)*len(s.small)/of] {
		s.home.drop(in.name, in.content())
	}
}

// moment is up to a second of work.
func (s *storm) moment() { time.Sleep(time.Duration(s.rand.Int64N(int64(time.Second)))) }

// inFlight is what the rehearsal engine holds at most: 1.25 times its batch size of 256.
const inFlight = 320

// end waits until all has ended, and judges it. Each kill may cost what was in flight, not more.
func (s *storm) end(t *testing.T, kills int) error {
	if err := s.home.awaitIdle(); err != nil {
		return err
	}
	if err := s.home.stop(); err != nil {
		return err
	}
	v, err := s.home.verify()
	t.Logf("lines redone: %d", v.Redone)
	if v.Redone > int64(kills*inFlight) {
		err = errors.Join(err, fmt.Errorf("%d lines redone after %d kills with at most %d in flight", v.Redone, kills, inFlight))
	}
	return errors.Join(err, s.home.judge(append(s.small, s.large)...))
}

// TestKillTheDaemon is kill -9 at random moments: each line runs to its one result, however often.
func TestKillTheDaemon(t *testing.T) {
	t.Parallel()
	s := newStorm(t, released)
	n := rounds
	if testing.Short() {
		n = 5
	}
	alive := 0
	for round := range n {
		s.home.start()
		s.arrive(round, n)
		s.moment()
		if !s.home.idle() {
			alive++
		}
		s.home.kill()
	}
	if alive < n/2 {
		t.Errorf("only %d of %d kills came while there was work: make more of it", alive, n)
	}
	s.home.start()
	if err := s.end(t, n); err != nil {
		t.Error(err)
	}
}

// TestKillTheWorker is kill -9 of the engine alone, again and again, under a daemon that lives on.
func TestKillTheWorker(t *testing.T) {
	t.Parallel()
	s := newStorm(t, released)
	s.home.start()
	n := rounds / 2
	if testing.Short() {
		n = 3
	}
	for round := range n {
		s.arrive(round, n)
		if err := s.home.await("a worker", func() bool { return s.home.worker() != 0 }); err != nil {
			t.Fatal(err)
		}
		s.moment()
		if pid := s.home.worker(); pid != 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if err := s.end(t, n); err != nil {
		t.Error(err)
	}
}
