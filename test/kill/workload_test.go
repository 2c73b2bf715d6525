package kill

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"stoker/test/rig"
)

// workload is one way to give stoker the same files, which need every kind of end.
type workload struct {
	name    string
	config  string
	args    []string // of stoker
	exit    int      // what it leaves with when it has ended all: a batch failed
	late    bool     // the files come while it runs, one after another
	crash   string   // where a life before has died; "" for none
	twice   bool     // a file comes a second time, while its batch may still run
	queues  bool
	crashes int // that may make lines run again
}

const settings = `
[inbox]
ready = "rename"
rescan = "100ms"
[engine]
kind = "echo"
[engine.args]
delay = "30ms"
`

func workloads() []workload {
	run := []string{"run"}
	return []workload{
		{name: "waiting", config: settings, args: run, twice: true, queues: true, crashes: 1},
		{name: "arriving", config: "[outbox]\norder = \"completion\"\n" + settings, args: run, late: true, twice: true, queues: true, crashes: 1},
		{name: "recovering", config: settings, args: run, crash: "commit.journals-synced:2", twice: true, queues: true, crashes: 2},
		{name: "publishing", config: settings, args: run, crash: "publish.recorded:2", twice: true, queues: true, crashes: 2},
		{name: "once", config: settings, args: []string{"once", "in/large.jsonl", "in/mixed.jsonl", "in/bad.jsonl", "in/again.jsonl"}, exit: 1, crashes: 1},
	}
}

const (
	// inFlight is what the rehearsal engine holds at most: 1.25 times its batch size of 256.
	inFlight = 320
	// mayRepeat is what a kill may make run again: the engine may be full again before its last answers are written.
	mayRepeat = 2 * inFlight
)

// site is a home with a workload's files.
type site struct {
	*workload
	home    *rig.Home
	inputs  []rig.Input
	dropped int // of inputs
}

// newSite has a stoker as it is before the life that is watched.
func newSite(t testing.TB, w *workload) (*site, error) {
	s := &site{workload: w, home: rig.NewHome(t, rig.Released, w.config), inputs: []rig.Input{
		{Name: "large.jsonl", Lines: rig.Good("large", 700)},
		{Name: "mixed.jsonl", Lines: slices.Concat(rig.Good("mixed", 6), rig.Bad("mixed"), rig.Good("more", 5))},
		{Name: "bad.jsonl", Lines: rig.Bad("bad")},
		{Name: "again.jsonl", Lines: rig.Good("again", 9)},
	}}
	s.home.Unordered = w.late
	if w.queues {
		s.inputs[1].Name = "q/mixed.jsonl"
		for i := range 4 {
			s.inputs = append(s.inputs, rig.Input{Name: fmt.Sprintf("%c/small-%d.jsonl", 'p'+i%2, i), Lines: rig.Good(fmt.Sprint("small-", i), 3)})
		}
	}
	if w.args[0] == "once" {
		s.home.Mkdir("in")
		for _, in := range s.inputs {
			s.home.Write("in/"+in.Name, in.Content())
		}
		s.dropped = len(s.inputs)
		return s, nil
	}
	if !w.late {
		s.dropRest()
	}
	return s, s.die()
}

// die is the life before, which ended at a crash point.
func (s *site) die() error {
	if s.crash == "" {
		return nil
	}
	s.home.Binary = rig.Faulty
	s.home.Start("STOKER_CRASH_AT=" + s.crash)
	s.home.Binary = rig.Released
	return s.home.Await("the crash at "+s.crash, s.home.Dead)
}

// launch starts the stoker of the workload.
func (s *site) launch() {
	args := slices.Clone(s.args)
	for i, a := range args[1:] {
		args[i+1] = s.home.Path(a)
	}
	s.home.Launch(args)
}

func (s *site) dropRest() {
	for s.dropped < len(s.inputs) {
		s.dropNext()
	}
}

func (s *site) dropNext() {
	in := &s.inputs[s.dropped]
	s.home.Drop(in.Name, in.Content())
	s.dropped++
}

// repeat drops a file again, as soon as there is room for its name.
func (s *site) repeat() (done bool) {
	in := &s.inputs[3]
	if !s.twice || in.Copies == 2 {
		return true
	}
	if _, err := os.Lstat(s.home.Path("inbox", in.Name)); err == nil {
		return false
	}
	s.home.Drop(in.Name, in.Content())
	in.Copies = 2
	return true
}

// live feeds stoker until it dies or has nothing left to do.
func (s *site) live() error {
	if err := s.feed(); err != nil {
		return err
	}
	return s.home.Await("the end of all work", s.done)
}

// feed drops what stoker does not have yet.
func (s *site) feed() error {
	return s.home.Await("the files to be dropped", func() bool {
		if s.home.Dead() {
			return true
		}
		if s.dropped < len(s.inputs) {
			s.dropNext()
			return false
		}
		return s.repeat()
	})
}

// done reports whether stoker has nothing left to do, or died.
func (s *site) done() bool { return s.home.Dead() || s.args[0] != "once" && s.home.Idle() }

// makeGood starts stoker without faults, and proves that nothing is lost or doubled once it has ended all.
func (s *site) makeGood() (rig.Verification, rig.Tally, error) {
	s.home.Under = nil
	s.dropRest()
	s.launch()
	if err := s.finish(); err != nil {
		return rig.Verification{}, rig.Tally{}, err
	}
	v, err := s.home.Verify()
	if limit := int64(s.crashes * mayRepeat); v.Redone > limit {
		err = errors.Join(err, fmt.Errorf("I9: %d lines redone, at most %d were in flight or not written yet", v.Redone, limit))
	}
	tally, terr := s.home.Tally(s.inputs...)
	return v, tally, errors.Join(err, terr, s.home.Judge(s.inputs...))
}

// finish waits until stoker has nothing left to do and stops it.
func (s *site) finish() error {
	if s.args[0] == "once" {
		end, err := s.home.Wait()
		if err == nil && end.ExitCode() != s.exit {
			err = fmt.Errorf("once: %s\n%s", end, s.home.Log())
		}
		return err
	}
	if err := s.home.Await("room for the second copy", func() bool { return s.repeat() || s.home.Dead() }); err != nil {
		return err
	}
	return errors.Join(s.home.AwaitIdle(), s.home.Stop())
}
