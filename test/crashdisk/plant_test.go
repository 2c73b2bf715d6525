//go:build disk

package crashdisk

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// planted says for a bug that only a power cut shows on which disks, and which of some invariants it breaks.
var planted = map[string]struct {
	layout     layout
	invariants []string
}{
	"journal-not-synced": {oneDisk, []string{"I3", "I6"}},
	"checkpoint-first":   {oneDisk, []string{"I3", "I6"}}, // a journal may be long enough, and hold nothing
	"index-not-synced":   {oneDisk, []string{"I3", "I5", "I7"}},
	// On one disk ext4 makes all names durable as soon as one thing is.
	"claim-not-synced": {threeDisks, []string{"I3", "I5"}},
	"dir-not-synced":   {threeDisks, []string{"I3", "I4", "I5", "I7"}},
}

// TestPlantedBugs proves that these tests can fail: a cut of the power must show each planted bug.
func TestPlantedBugs(t *testing.T) {
	mutant := rig.Mutant()
	var mu sync.Mutex
	row := figures.Figures{Suite: "planted bugs that a power cut showed", Note: fmt.Sprintf("%d planted", len(planted))}
	if mutant == "" {
		t.Cleanup(func() { figures.Report(t, row) })
	}
	for _, plant := range rig.PowerCutPlants() {
		if mutant != "" && mutant != plant {
			continue
		}
		t.Run(plant, func(t *testing.T) {
			t.Parallel()
			want, ok := planted[plant]
			if !ok {
				t.Fatal("say which invariants this bug breaks")
			}
			chance := rig.Random(t)
			r, err := record(t, kinds["ext4"], want.layout, rig.Faulty, "STOKER_PLANT="+plant)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			o := r.explore(t, r.draw(chance, 500), 1)
			if len(o.failed) == 0 {
				t.Fatalf("no cut of %d showed the bug", o.points)
			}
			found := violations(o.failed[0].err)
			i := slices.IndexFunc(found, func(v *violation) bool { return slices.Contains(want.invariants, v.invariant) })
			if i < 0 {
				t.Fatalf("one of %s is broken by this bug, not: %v", want.invariants, o.failed[0].err)
			}
			if mutant != "" { // as if the bug were stoker's own
				t.Fatal(found[i])
			}
			mu.Lock()
			defer mu.Unlock()
			row.Count++
			t.Logf("noticed at cut %d, %s: %v", o.points, time.Since(began).Round(time.Millisecond), found[i])
		})
	}
}

// violations are the invariants that do not hold, of an error that may be about several.
func violations(err error) (all []*violation) {
	switch err := err.(type) {
	case *violation:
		return []*violation{err}
	case interface{ Unwrap() []error }:
		for _, e := range err.Unwrap() {
			all = append(all, violations(e)...)
		}
	case interface{ Unwrap() error }:
		return violations(err.Unwrap())
	}
	return all
}
