package inbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"stoker/daemon/pulse"
	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
)

// archiver moves files out of .processing: the inputs of ended batches, and duplicates. It has a goroutine of its own,
// because the archive may be on another share than the inbox, and hang.
type archiver struct {
	folders
	store *store.Store
	pulse *pulse.Pulse
	wake  chan struct{}
	left  chan departure // what became of duplicates

	found []*store.Record // by recover; until it is known which names they had noted

	mu        sync.Mutex
	pollEvery time.Duration   // the first pause between two tries
	ended     []*store.Record // batches whose input is to leave .processing
	aside     []*duplicate    // to be set aside, each once
	problem   error           // why ended is not empty
}

// departure is what setting a duplicate aside came to.
type departure struct {
	duplicate *duplicate
	err       error
}

// Archive is what waits to be archived.
type Archive struct {
	Waiting int    `json:"waiting"`
	Problem string `json:"problem,omitzero"`

	Lacks *durable.FullError `json:"-"` // what Problem says, if it is that
}

func newArchiver(o *Options, f folders) *archiver {
	f.fs = o.ArchiveFS
	return &archiver{
		folders: f, store: o.Store, pulse: o.ArchivePulse, pollEvery: o.PollEvery, wake: make(chan struct{}, 1), left: make(chan departure),
	}
}

func (a *archiver) status() Archive {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Archive{Waiting: len(a.ended) + len(a.aside)}
	if a.problem != nil {
		s.Problem = a.problem.Error()
		errors.As(a.problem, &s.Lacks)
	}
	return s
}

// archive queues the input of an ended batch. It does not block.
func (a *archiver) archive(records ...*store.Record) {
	a.mu.Lock()
	a.ended = append(a.ended, records...)
	a.mu.Unlock()
	a.signal()
}

// setAside queues a duplicate. It does not block.
func (a *archiver) setAside(d *duplicate) {
	a.mu.Lock()
	a.aside = append(a.aside, d)
	a.mu.Unlock()
	a.signal()
}

// configure changes how soon what failed is tried again. It does not block.
func (a *archiver) configure(pollEvery time.Duration) {
	a.mu.Lock()
	changed := a.pollEvery != pollEvery
	a.pollEvery = pollEvery
	a.mu.Unlock()
	if changed {
		a.signal()
	}
}

func (a *archiver) firstPause() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pollEvery
}

func (a *archiver) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// maxArchivePause bounds the pause between two tries.
const maxArchivePause = 30 * time.Second

// run archives until the context ends. What cannot be moved now is tried again.
func (a *archiver) run(ctx context.Context) {
	a.recover()
	first := a.firstPause()
	pause := first
	for {
		a.setAsideAll(ctx)
		if done, configured := a.archiveEnded(ctx), a.firstPause(); done || configured != first {
			first, pause = configured, configured
		}
		var again <-chan time.Time
		if a.status().Waiting > 0 {
			again = time.After(pause)
		}
		switch a.rest(ctx, again) {
		case ended:
			return
		case due:
			pause = min(2*pause, maxArchivePause)
		}
	}
}

// why says what ended a rest.
type why int

const (
	ended why = iota
	woken
	due
)

// rest waits until there is something to do, or until what failed is to be tried again.
func (a *archiver) rest(ctx context.Context, again <-chan time.Time) why {
	for {
		a.pulse.Beat()
		faults.Hang("archive")
		select {
		case <-ctx.Done():
			return ended
		case <-a.pulse.Asked():
		case <-a.wake:
			return woken
		case <-again:
			return due
		}
	}
}

// recover finds the inputs that a former life did not archive.
func (a *archiver) recover() {
	records, err := a.store.List()
	if err != nil {
		a.log.Error().Err(err).Msg("cannot list batches")
	}
	for _, r := range records {
		if r.State.Ended() && !r.Archived {
			a.archive(r)
			a.found = append(a.found, r)
		}
	}
}

// reserve reserves the names that inputs had noted which a former life did not archive, before others get them.
func (a *archiver) reserve() error {
	for len(a.found) > 0 {
		if err := a.reserveNoted(a.found[0].ID); err != nil {
			return fmt.Errorf("archive %s: %w", a.found[0].Input.Name, err)
		}
		a.found = a.found[1:]
	}
	return nil
}

// archiveEnded archives several inputs at a time: what they sync is shared. It reports whether nothing is left to be archived.
func (a *archiver) archiveEnded(ctx context.Context) bool {
	if err := a.reserve(); err != nil {
		a.note(err)
		return false
	}
	a.mu.Lock()
	todo := slices.Clone(a.ended)
	a.mu.Unlock()
	errs := make([]error, len(todo))
	var all errgroup.Group
	all.SetLimit(atOnce)
	for i, r := range todo {
		all.Go(func() error {
			if ctx.Err() != nil {
				return nil
			}
			if errs[i] = a.archiveOne(r); errs[i] == nil {
				a.drop(r)
			}
			return nil
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return false
	}
	var problem error
	for _, err := range errs {
		problem = cmp.Or(err, problem)
	}
	a.note(problem)
	return problem == nil
}

// drop takes an input that is archived from those that are to be.
func (a *archiver) drop(r *store.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = slices.DeleteFunc(a.ended, func(other *store.Record) bool { return other == r })
}

// note takes down why inputs cannot be archived, and says it once.
func (a *archiver) note(problem error) {
	a.mu.Lock()
	before, left := a.problem, len(a.ended)
	a.problem = problem
	a.mu.Unlock()
	switch {
	case problem != nil && (before == nil || before.Error() != problem.Error()):
		a.log.Warn().Err(problem).Int("inputs", left).Msg("cannot archive; trying again")
	case problem == nil && before != nil:
		a.log.Info().Msg("archiving goes on")
	}
}

func (a *archiver) archiveOne(r *store.Record) error {
	folder := r.State.ArchiveFolder()
	a.dropLink(r.ID)
	from := a.claimPath(r.ID, r.Input.Name)
	to, err := a.move(from, folder, r.Queue, r.Input.Name, func(string) error { return nil })
	if err != nil && a.isGone(r.ID, r.Input.Name) { // it was moved before a crash, or taken away
		err = a.dropHalf(r.ID, folder, r.Queue)
	}
	if err != nil {
		return fmt.Errorf("archive %s: %w", r.Input.Name, durable.Full(a.archiveDir, r.Input.Bytes, err))
	}
	a.reserved.release(r.ID)
	faults.Crash("archive.moved")
	if err := a.dropHalfSetAside(r.ID, r.Queue); err != nil {
		return fmt.Errorf("archive %s: %w", r.Input.Name, err)
	}
	a.giveBackRest(r.ID, r.Queue)
	if err := a.removeClaimDir(r.ID); err != nil { // once the batch counts as archived nobody looks there any more
		return fmt.Errorf("archive %s: %w", r.Input.Name, err)
	}
	if err := a.store.SetArchived(r.ID); err != nil {
		return err
	}
	faults.Crash("archive.recorded")
	a.log.Debug().Str("batch", r.ID).Str("path", to).Msg("input is archived")
	return nil
}
