package e2e

import (
	"bytes"
	"os"
	"sync"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// TestRebuildAtEveryPoint kills stoker at each step that promises durability and takes its database away, or spoils it:
// the one that is made anew goes on as the old one would have.
func TestRebuildAtEveryPoint(t *testing.T) {
	begun := time.Now()
	var mu sync.Mutex
	row := figures.Figures{Suite: "databases lost and rebuilt"}
	t.Cleanup(func() { // after the parallel tests; one that fails says itself what was lost or doubled
		row.Seconds = int(time.Since(begun).Seconds())
		figures.Report(t, row)
	})
	for i, point := range faultPoints(t, "Crash") {
		if testing.Short() && i%4 != 0 {
			continue
		}
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			w := newWalk(t, "")
			w.begin()
			if err := w.live("STOKER_CRASH_AT=" + point); err != nil {
				t.Fatal(err)
			}
			if !w.home.Dead() {
				if err := w.home.Stop(); err != nil {
					t.Fatal(err)
				}
			}
			loseDatabase(t, w.home, i%2 == 0)
			if err := w.end(); err != nil {
				t.Fatal(err)
			}
			v, err := w.home.Verify()
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			row.Count++
			row.Redone = max(row.Redone, int(v.Redone))
		})
	}
}

// loseDatabase takes the database away, or overwrites its pages, and has it made anew. Before the first batch there is
// nothing to make anew.
func loseDatabase(t *testing.T, h *rig.Home, gone bool) {
	t.Helper()
	db := h.Path(".state/stoker.db")
	before, err := os.ReadFile(db)
	if err != nil {
		t.Fatal(err)
	}
	if gone {
		err = os.Remove(db)
	} else {
		spoilt := append(before[:2*4096:2*4096], bytes.Repeat([]byte("garbage "), (len(before)-2*4096)/8)...)
		err = os.WriteFile(db, spoilt, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if batches, _ := os.ReadDir(h.Path(".state/batches")); len(batches) == 0 && gone {
		return
	}
	if out, code := h.Stoker("status"); code != 1 {
		t.Errorf("status of a damaged state exits with %d: %s", code, out)
	}
	if out, code := h.Stoker("state", "rebuild"); code != 0 {
		t.Errorf("state rebuild exits with %d: %s", code, out)
	}
}
