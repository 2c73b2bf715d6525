package sim

import (
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// Scheduler decides what happens next. Everything runs in one synctest bubble: when all goroutines wait, for an operation
// on the disk or for time to pass, it picks one of the operations, so that the order depends on the seed alone.
type Scheduler struct {
	rand    *rand.Rand
	arrived chan struct{} // an operation waits

	mu      sync.Mutex // of the disk, too
	waiting []*step
	living  *Life // whose operations are granted; nil: nobody's

	names map[string]string // of batches and instances, as they are told in the trace
	trace []string
	hash  uint64
}

// step is an operation that waits to be granted.
type step struct {
	name  string
	plain string // the name without ids
	do    func() error
	hung  func() time.Time // it cannot be done before
	done  chan error
}

// newScheduler returns one for the next life of a process; it goes on with the trace.
func newScheduler(r *rand.Rand) *Scheduler {
	return &Scheduler{rand: r, arrived: make(chan struct{}, 1), names: map[string]string{}}
}

// Step waits until the operation is granted and returns what came of it.
func (s *Scheduler) Step(l *Life, name string, do func() error, hung func() time.Time) error {
	st := &step{name: name, do: do, hung: hung, done: make(chan error, 1)}
	s.mu.Lock()
	if l.free || l != s.living {
		defer s.mu.Unlock()
		if l.free {
			return do()
		}
		return errDead
	}
	s.waiting = append(s.waiting, st)
	s.mu.Unlock()
	select {
	case s.arrived <- struct{}{}:
	default:
	}
	return <-st.done
}

// Look does something at once that changes nothing for others.
func (s *Scheduler) Look(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// next returns an operation that can be done now, nil if there is none.
func (s *Scheduler) next() *step {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	// Several may have come at the same instant, in any order; ids sort by when they were made.
	slices.SortStableFunc(s.waiting, func(a, b *step) int { return strings.Compare(a.name, b.name) })
	for _, st := range s.waiting {
		if st.plain == "" {
			st.plain = s.plain(st.name)
		}
	}
	slices.SortStableFunc(s.waiting, func(a, b *step) int { return strings.Compare(a.plain, b.plain) })
	var ready []int
	for i, st := range s.waiting {
		if !time.Now().Before(st.hung()) {
			ready = append(ready, i)
		}
	}
	if len(ready) == 0 {
		return nil
	}
	i := ready[s.rand.IntN(len(ready))]
	st := s.waiting[i]
	s.waiting = slices.Delete(s.waiting, i, i+1)
	return st
}

// grant does an operation. What came of it is told by answer, unless the process dies first.
func (s *Scheduler) grant(st *step) (answer func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := st.do()
	s.record(st.plain, err)
	return func() { st.done <- err }
}

// kill makes all operations of this life fail from now on.
func (s *Scheduler) kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.living = nil
	for _, st := range s.waiting {
		st.done <- errDead
	}
	s.waiting = nil
}

var ids = regexp.MustCompile(`batch_[0-9a-z]{26}|[0-9A-Z]{26}`)

// plain is a name with the ids, which are random, replaced by their number.
func (s *Scheduler) plain(name string) string {
	return ids.ReplaceAllStringFunc(name, func(id string) string {
		if s.names[id] == "" {
			s.names[id] = fmt.Sprintf("#%d", len(s.names)+1)
		}
		return s.names[id]
	})
}

var polynomial = crc64.MakeTable(crc64.ECMA)

// maxTrace bounds what is kept of what happened.
const maxTrace = 200

// record notes what happened, to be told if it went wrong.
func (s *Scheduler) record(name string, err error) {
	what := name
	if err != nil {
		what += ": " + err.Error()
	}
	s.hash = crc64.Update(s.hash, polynomial, []byte(what))
	if len(s.trace) == maxTrace {
		s.trace = slices.Delete(s.trace, 0, maxTrace/2)
	}
	s.trace = append(s.trace, what)
}

// giveBack puts an operation back that was not done.
func (s *Scheduler) giveBack(st *step) {
	if st == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, st)
}

// bear begins another life.
func (s *Scheduler) bear(l *Life) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.living = l
}
