// Package pulse tells a goroutine that hangs from one that is at work, or that waits for storage. A watchdog must end a
// stoker of the first kind, which only a new process cures, and never one of the others: a new process would find the
// same dead share and the same slow disk.
package pulse

import (
	"sync/atomic"
	"time"
)

// Pulse is the sign of life of one goroutine that owns something, and of those that it waits for. A nil one is nobody's: its
// methods do nothing.
type Pulse struct {
	asked chan struct{}
	beats atomic.Uint64
	waits atomic.Int64 // calls to storage under way
	longs atomic.Int64 // long steps under way
	long  atomic.Int64 // until when nothing is expected of them, nanoseconds after epoch
	epoch time.Time
}

// New returns the pulse of a goroutine that has just begun.
func New() *Pulse { return &Pulse{asked: make(chan struct{}, 1), epoch: time.Now()} }

// Asked is to be among what the owner waits for: it wakes one that has nothing to do, so that it beats.
func (p *Pulse) Asked() <-chan struct{} {
	if p == nil {
		return nil
	}
	return p.asked
}

// Beat tells that the owner goes on: in each turn of its loop, and in each step of a turn that may have many.
func (p *Pulse) Beat() {
	if p != nil {
		p.beats.Add(1)
	}
}

// Begin tells that an operation begins that takes as long as storage wants.
func (p *Pulse) Begin() {
	if p != nil {
		p.waits.Add(1)
	}
}

// End tells that such an operation is over.
func (p *Pulse) End() {
	if p != nil {
		p.waits.Add(-1)
		p.beats.Add(1)
	}
}

// longest bounds a step that is known to take long.
const longest = time.Hour

// Long tells that a step begins that is too long for a sign of life and has none in between, such as reading a whole
// journal. The function that it returns ends it.
func (p *Pulse) Long() (end func()) {
	if p == nil {
		return func() {}
	}
	p.long.Store(int64(time.Since(p.epoch) + longest))
	p.longs.Add(1)
	return func() {
		p.longs.Add(-1)
		p.Beat()
	}
}

// excused reports whether nothing can be expected of the owner now.
func (p *Pulse) excused() bool {
	return p.waits.Load() > 0 || p.longs.Load() > 0 && int64(time.Since(p.epoch)) < p.long.Load()
}

func (p *Pulse) ask() {
	select {
	case p.asked <- struct{}{}:
	default: // it has not taken the last one yet
	}
}
