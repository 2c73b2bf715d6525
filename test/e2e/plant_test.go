package e2e

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"stoker/store"
	"stoker/test/figures"
	"stoker/test/rig"
)

// bug is a planted bug, with the crash that shows it and the invariant that breaks.
type bug struct {
	crash  crash
	breaks string
}

// planted are the bugs that the death of the process, or a slow writer, can show.
func planted() map[string]bug {
	return map[string]bug{
		// A torn tail that stays hides from the next recovery what was appended behind it.
		"tail-not-cut": {tornTwice, "I1"},
		// Results that recovery does not count are made again, and stand in the journal twice.
		"adopt-nothing": {walkWith("commit.journals-synced"), "I1"},
		// Results that recovery appends again stand in the journal twice.
		"adopted-twice": {walkWith("commit.journals-synced"), "I1"},
		// What was claimed but not yet recorded is never run.
		"claim-forgotten": {walkWith("claim.renamed"), "I7"},
		// What is written to a file after it was taken never runs.
		"claim-before-settle": {slowWriter, "I1"},
		// Somebody else's file in the outbox is lost.
		"publish-replaces": {foreignFile, "I4"},
		// What a crash left of an edition stays beside the next one.
		"publish-again": {walkWith("publish.renamed" + store.SuffixOutput), "I1"},
		// What a dead worker started lives on beside the next one.
		"group-not-killed": {escapedChild, "I8"},
	}
}

// crash is a stoker's death with or without a planted bug, and what is wrong after it.
type crash func(t *testing.T, plant string) error

func walkWith(point string) crash {
	return func(t *testing.T, plant string) error {
		missed, err := newWalk(t, plant, point).run()
		if len(missed) > 0 {
			t.Fatalf("nothing reached %s", missed)
		}
		return err
	}
}

// tornTwice tears the journal in the middle of results, and kills the next stoker before its checkpoint covers what it
// appended.
func tornTwice(t *testing.T, plant string) error {
	h := rig.NewHome(t, rig.Faulty, rig.Config+"delay = \"50ms\"\n") // so that results come before a commit
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 10)}
	h.Drop(in.Name, in.Content())
	for _, point := range []string{"journal.torn:2", "commit.journals-synced"} {
		h.Start("STOKER_CRASH_AT="+point, "STOKER_PLANT="+plant)
		if err := h.Await("the crash at "+point, h.Dead); err != nil {
			t.Fatal(err)
		}
	}
	h.Start("STOKER_PLANT=" + plant)
	return h.End(in)
}

// foreignFile has somebody put a file where a batch is about to publish, while stoker is dead.
func foreignFile(t *testing.T, plant string) error {
	h := rig.NewHome(t, rig.Faulty, rig.Config)
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 3)}
	h.Drop(in.Name, in.Content())
	h.Start("STOKER_CRASH_AT=publish.recorded", "STOKER_PLANT="+plant)
	if err := h.Await("the crash", h.Dead); err != nil {
		t.Fatal(err)
	}
	const foreign = "mine\n"
	h.Write("outbox/x.output.jsonl", foreign)
	h.Start("STOKER_PLANT=" + plant)
	if err := errors.Join(h.AwaitIdle(), h.Stop()); err != nil {
		return err
	}
	if got, err := os.ReadFile(h.Path("outbox/x.output.jsonl")); err != nil || string(got) != foreign {
		return errors.Join(errors.New("I4: somebody's file was replaced"), err)
	}
	if err := os.Remove(h.Path("outbox/x.output.jsonl")); err != nil {
		t.Fatal(err)
	}
	_, err := h.Verify()
	return errors.Join(err, h.JudgeBatch(&in, h.Path("outbox/x~2"), map[string]bool{}))
}

// TestPlantedBugs proves that these tests can fail: each planted bug must turn its crash red, which is green without it.
func TestPlantedBugs(t *testing.T) {
	if mutant := rig.Mutant(); mutant != "" {
		succumb(t, mutant)
		return
	}
	var mu sync.Mutex
	row := figures.Figures{Suite: "planted bugs that a kill or a slow writer showed", Note: fmt.Sprintf("%d planted", len(planted()))}
	t.Cleanup(func() { figures.Report(t, row) })
	for plant, bug := range planted() {
		t.Run(plant, func(t *testing.T) {
			t.Parallel()
			if err := bug.crash(t, ""); err != nil {
				t.Fatalf("red without the bug: %v", err)
			}
			told, err := bug.provoke(t, plant)
			if err == nil {
				t.Fatal("nothing noticed the bug")
			}
			if told == "" {
				t.Fatalf("nothing says that %s is broken: %v", bug.breaks, err)
			}
			t.Logf("noticed: %s", told)
			mu.Lock()
			defer mu.Unlock()
			row.Count++
		})
	}
}

// succumb runs the crash that shows a bug as if the bug were stoker's own.
func succumb(t *testing.T, mutant string) {
	bug, ok := planted()[mutant]
	if !ok {
		t.Logf("%s is not a bug that a kill can show", mutant)
		return
	}
	if told, err := bug.provoke(t, mutant); err != nil {
		t.Fatalf("%s\n%v", told, err)
	}
}

// provoke crashes stoker until the bug breaks its invariant: that takes a crash at the right moment. It returns what is
// wrong, and of that the line that names the invariant.
func (b *bug) provoke(t *testing.T, plant string) (told string, err error) {
	for range 5 {
		if err = b.crash(t, plant); err == nil {
			continue
		}
		for line := range strings.Lines(err.Error()) {
			if strings.Contains(line, b.breaks+":") {
				return strings.TrimSpace(line), err
			}
		}
	}
	return "", err
}

// TestEveryPlantIsKnown keeps the list above complete.
func TestEveryPlantIsKnown(t *testing.T) {
	known := planted()
	for _, plant := range faultPoints(t, "Planted") {
		if _, ok := known[plant]; !ok && !slices.Contains(rig.PowerCutPlants(), plant) {
			t.Errorf("planted bug %q: say which crash shows it, or that none does", plant)
		}
	}
}
