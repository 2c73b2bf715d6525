package engine

import (
	"math"
	"slices"
	"time"
)

// Phase is a part of a start: what the worker said that it does, or that it is being started.
type Phase struct {
	Name        string  `json:"name"`
	Seconds     float64 `json:"seconds"`               // so far; 0 if it has not begun
	LastSeconds float64 `json:"last_seconds,omitzero"` // at the last comparable start
}

const (
	// WaitPhase is what a replica is in that has no worker yet, because another one loads on its GPUs.
	WaitPhase = "waiting"
	// FirstPhase is what a worker is in before it tells its first one.
	FirstPhase = "starting"
)

// phases measure a start. Loading may come back to a phase: its times add up.
type phases struct {
	all     []Phase
	current int // index of the one that lasts, -1 if none does
	since   time.Time
}

func beginPhases(now time.Time) phases {
	return phases{all: []Phase{{Name: FirstPhase}}, since: now}
}

// enter ends the phase that lasts and begins another.
func (p *phases) enter(name string, now time.Time) {
	if !p.end(now) {
		return // the start is over
	}
	p.since, p.current = now, p.find(name)
}

// end ends the start, and reports whether it had not ended before.
func (p *phases) end(now time.Time) bool {
	if p.all == nil || p.current < 0 {
		return false
	}
	p.all[p.current].Seconds += now.Sub(p.since).Seconds()
	p.current = -1
	return true
}

// find returns the index of a phase, which it adds if it is new.
func (p *phases) find(name string) int {
	i := slices.IndexFunc(p.all, func(one Phase) bool { return one.Name == name })
	if i < 0 {
		i = len(p.all)
		p.all = append(p.all, Phase{Name: name})
	}
	return i
}

// told reports whether the worker has told any phase.
func (p *phases) told() bool { return len(p.all) > 1 }

// at returns the phases as they are, in the order in which they began; those that a comparable start had and this one has
// not come to stand last.
func (p *phases) at(now time.Time, last []Phase) []Phase {
	all := slices.Clone(p.all)
	if all != nil && p.current >= 0 {
		all[p.current].Seconds += now.Sub(p.since).Seconds()
	}
	for _, l := range last {
		i := slices.IndexFunc(all, func(one Phase) bool { return one.Name == l.Name })
		if i < 0 {
			i = len(all)
			all = append(all, Phase{Name: l.Name})
		}
		all[i].LastSeconds = l.Seconds
	}
	for i := range all {
		all[i].Seconds = math.Round(all[i].Seconds*100) / 100
	}
	return all
}
