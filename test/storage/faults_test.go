package storage

import (
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// TestStorageFaults is stoker on storage of every kind that is full, fails, hangs or goes away. Each ends with verify and
// the judge.
func TestStorageFaults(t *testing.T) {
	began, c := time.Now(), &counter{}
	t.Cleanup(func() {
		figures.Report(t, figures.Figures{
			Suite: "storage faults", Count: c.ended, Lost: c.total.Lost, Doubled: c.total.Doubled, Redone: c.redone,
			Note: fmt.Sprintf("%d kinds", len(kinds)), Seconds: int(time.Since(began).Seconds()),
		})
	})
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			k.test(t, c)
		})
	}
}

// kinds are the kinds of faults.
var kinds = []struct {
	name string
	test func(*testing.T, *counter)
}{
	{"state fills up", stateFillsUp},
	{"state is full at start", stateIsFullAtStart},
	{"state fails", stateFails},
	{"state goes away", stateGoesAway},
	{"state is read-only at start", stateIsReadOnly},
	{"no room for a file", noRoomForAFile},
	{"outbox fills up", outboxFillsUp},
	{"archive fills up", archiveFillsUp},
	{"inbox hangs", inboxHangs},
	{"outbox hangs", outboxHangs},
	{"archive hangs", archiveHangs},
	{"watchdog, shares hang", watchdogWaitsForShares},
	{"watchdog, inbox hangs at start", readyWhileTheInboxHangs},
	{"watchdog, state is slow", watchdogWaitsForTheState},
	{"shares hang at start and stop", startsAndStopsWhileSharesHang},
	{"shares are unmounted", sharesAreUnmounted},
	{"inbox is mounted late", inboxIsMountedLate},
	{"inbox goes away", inboxGoesAway},
	{"outbox is read-only", outboxIsReadOnly},
	{"outbox cannot sync", shareFails("outbox", syscall.EIO, "fsync")},
	{"outbox cannot write", shareFails("outbox", syscall.EIO, "write")},
	{"outbox refuses", shareFails("outbox", syscall.EACCES, "create")},
	{"outbox is stale", shareFails("outbox", syscall.ESTALE, "lookup", "getattr", "readdir")},
	{"outbox times out", shareFails("outbox", syscall.ETIMEDOUT, "rename")},
	{"inbox is not connected", shareFails("inbox", syscall.ENOTCONN, "readdir", "lookup", "open")},
	{"archive fails", shareFails("archive", syscall.EIO, "lookup")},
}

// counter counts what all tests saw.
type counter struct {
	mu     sync.Mutex
	ended  int // faults that were survived
	total  rig.Tally
	redone int
}

func (c *counter) count(t testing.TB, h *rig.Home, redone int64, inputs ...rig.Input) {
	t.Helper()
	counted, err := h.Tally(inputs...)
	if err != nil {
		t.Error(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended++
	c.total.Add(counted)
	c.redone = max(c.redone, int(redone))
}
