//go:build vm

package vm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
	"stoker/test/vm/machine"
)

// cutsVar names the environment variable with the number of power cuts.
const cutsVar = "STOKER_VM_CUTS"

// What stoker says on the console.
const (
	runs     = "stoker runs"
	isReady  = "engine is ready"
	isOpen   = "batch is open"
	hasEnded = "batch has ended"
)

// TestPowerCuts cuts the power at random moments, again and again, while people drop files. The machine must come up by
// itself each time, and in the end each line must have its one result.
func TestPowerCuts(t *testing.T) {
	t.Parallel()
	began := time.Now()
	chance := rig.Random(t)
	c := &cutting{g: newGuest(t, installed.root(t)), chance: chance}
	err := c.lives(rig.Number(t, cutsVar, 12))
	if err == nil {
		err = c.end()
	}
	if err != nil {
		t.Error(err)
	}
	figures.Report(t, figures.Figures{
		Suite: "power cuts of a virtual machine", Count: c.cuts, Lost: c.tally.Lost, Doubled: c.tally.Doubled, Redone: c.redone,
		Note: fmt.Sprintf("%d in recovery; %d files, %d lines; from power-on to dispatching %s, on %s", c.early,
			len(c.dropped), c.lines(), spread(c.times), machine.Accelerator()),
		Seconds: int(time.Since(began).Seconds()),
	})
}

// cutting is a machine whose power is cut, and all that was dropped there.
type cutting struct {
	g       *guest
	chance  *rand.Rand
	dropped []rig.Input
	maybe   *rig.Input // the one whose drop the cut came into
	number  int        // of the next file

	cuts, early int
	redone      int // the most lines that ran again after one cut
	before      int64
	times       []time.Duration // from power-on to dispatching
	tally       rig.Tally
}

// lives has the machine live and lose its power, n times. It is on afterwards.
func (c *cutting) lives(n int) error {
	for range n {
		if err := c.live(); err != nil {
			return fmt.Errorf("after %d cuts: %w\n%s", c.cuts, err, c.g.said())
		}
		if err := c.cut(); err != nil {
			return err
		}
	}
	return nil
}

func (c *cutting) cut() error {
	c.cuts++
	c.g.t.Logf("cut %d, %s after power-on, with %d files dropped", c.cuts, time.Since(c.g.Started).Round(time.Second), len(c.dropped))
	if err := c.g.cutPower(c.chance.Uint64()); err != nil {
		return err
	}
	c.g.powerOn()
	return nil
}

// live is what happens between two cuts: stoker starts by itself, and people drop files until the next cut. One in four
// comes before that.
func (c *cutting) live() error {
	if _, err := c.g.AwaitConsole(patience, runs); err != nil {
		return err
	}
	if c.cuts > 0 && c.chance.IntN(4) == 0 {
		c.early++
		time.Sleep(c.draw(1500 * time.Millisecond))
		return nil
	}
	if err := errors.Join(c.resolve(), c.check()); err != nil {
		return err
	}
	if err := c.measure(); err != nil {
		return err
	}
	for range 1 + c.chance.IntN(4) {
		if err := c.drop(); err != nil {
			return err
		}
		time.Sleep(c.draw(600 * time.Millisecond))
	}
	return c.dropLast()
}

func (c *cutting) draw(most time.Duration) time.Duration {
	return time.Duration(c.chance.Int64N(int64(most)))
}

// measure notes how long after power-on the engine works, if there is work that was left.
func (c *cutting) measure() error {
	took, err := c.g.AwaitConsole(patience, isReady)
	if before, _, _ := strings.Cut(c.g.Console(), isReady); err != nil || c.cuts == 0 || !strings.Contains(before, isOpen) {
		return err
	}
	c.times = append(c.times, took)
	return nil
}

func (c *cutting) drop() error {
	in := c.file()
	if err := c.g.drop(local.inbox, in); err != nil {
		return err
	}
	c.dropped = append(c.dropped, in)
	return nil
}

// dropLast drops a file and comes to an end: in the middle of that, or soon after something became of the file.
func (c *cutting) dropLast() error {
	in := c.file()
	stem := strings.TrimSuffix(in.Name, ".jsonl")
	moments := [][]string{nil, {isOpen, "name=" + stem + " "}, {hasEnded, "name=" + stem + " "}, {"archive/done/" + in.Name}}
	moment := moments[c.chance.IntN(len(moments))]
	if moment == nil {
		c.dropInto(in)
		return nil
	}
	if err := c.g.drop(local.inbox, in); err != nil {
		return err
	}
	c.dropped = append(c.dropped, in)
	_, err := c.g.AwaitConsole(patience, moment...)
	time.Sleep(c.draw(time.Second))
	return err
}

// dropInto ends the machine while a file is dropped, or just after that.
func (c *cutting) dropInto(in rig.Input) {
	c.maybe = &in
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.g.drop(local.inbox, in) // how it went, nobody may be left to tell
	}()
	time.Sleep(c.draw(time.Second))
	c.g.CutPower()
	<-done
}

// file makes the next file: mostly a small one.
func (c *cutting) file() rig.Input {
	lines := 3 + c.chance.IntN(60)
	if c.number%4 == 0 {
		lines = 1500
	}
	name := fmt.Sprintf("file-%d", c.number)
	c.number++
	return rig.Input{Name: name + ".jsonl", Lines: rig.Good(name, lines)}
}

// resolve sees whether a drop that the cut came into was done.
func (c *cutting) resolve() error {
	if c.maybe == nil {
		return nil
	}
	stem := c.maybe.Name[:len(c.maybe.Name)-len(".jsonl")]
	found, err := c.g.try("rm -f %s/.incoming.tmp; find /srv/stoker -ignore_readdir_race -name '%s.*'", local.inbox, stem)
	if err != nil {
		return err
	}
	if found != "" {
		c.dropped = append(c.dropped, *c.maybe)
	}
	c.maybe = nil
	return nil
}

// check proves the invariants while stoker runs. What it notes is to be expected until all is done.
func (c *cutting) check() error {
	v, err := c.g.verify(true)
	c.redone = max(c.redone, int(v.Redone-c.before))
	c.before = v.Redone
	return err
}

// end lets stoker come to the end, and judges everything. The machine goes on.
func (c *cutting) end() error {
	if _, err := c.g.AwaitConsole(patience, runs); err != nil {
		return err
	}
	if err := c.resolve(); err != nil {
		return err
	}
	v, tally, err := c.g.end(local, c.dropped...)
	c.tally = tally
	c.redone = max(c.redone, int(v.Redone-c.before))
	return err
}

func (c *cutting) lines() (n int) {
	for _, in := range c.dropped {
		n += len(in.Lines)
	}
	return n
}
