package store

import (
	"sync"
	"time"
)

// waits are the reads, writes and syncs of the state that are under way. bbolt reads by page faults, so that whatever uses a
// transaction counts as one.
type waits struct {
	mu    sync.Mutex
	began map[*wait]struct{}
}

type wait struct{ at time.Time }

func (w *waits) begin() (end func()) {
	this := &wait{time.Now()}
	w.mu.Lock()
	w.began[this] = struct{}{}
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		delete(w.began, this)
		w.mu.Unlock()
	}
}

// Waiting is how long the oldest read, write or sync of the state that is under way has taken so far, 0 if there is none. A
// disk may take minutes for one, and whoever needs the state waits for it.
func (s *Store) Waiting() time.Duration {
	w := &s.health.waits
	w.mu.Lock()
	defer w.mu.Unlock()
	var longest time.Duration
	for this := range w.began {
		longest = max(longest, time.Since(this.at))
	}
	return longest
}
