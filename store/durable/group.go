package durable

import "sync"

// Group lets goroutines share a step that costs as much for many as for one: a sync, a commit. Who comes while one is under
// way waits for the next, which all of them share. Nobody shares a step that had begun before he came: it may not cover
// what he did.
type Group[T any] struct {
	mu    sync.Mutex
	next  *turn[T]        // has not begun; nil: nobody waits for one
	ahead <-chan struct{} // closed when the step before is over; nil: there was none
}

// turn is one step, for those who share it.
type turn[T any] struct {
	items []T
	over  chan struct{}
	err   error
}

// Do has a step done for an item, and for what others have added by the time it begins, and returns what came of it. All
// callers of a group pass the same step.
func (g *Group[T]) Do(item T, step func(items []T) error) error {
	t, ahead, first := g.join(item)
	if !first {
		<-t.over
		return t.err
	}
	if ahead != nil {
		<-ahead
	}
	t.err = step(g.begin())
	close(t.over) // not if the step panics: nobody may take it for done
	return t.err
}

// join adds an item to the next turn. Who is first in it is to do the step.
func (g *Group[T]) join(item T) (t *turn[T], ahead <-chan struct{}, first bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.next != nil {
		g.next.items = append(g.next.items, item)
		return g.next, nil, false
	}
	ahead = g.ahead
	g.next = &turn[T]{items: []T{item}, over: make(chan struct{})}
	g.ahead = g.next.over
	return g.next, ahead, true
}

// begin closes the next turn to whoever comes from now on.
func (g *Group[T]) begin() []T {
	g.mu.Lock()
	defer g.mu.Unlock()
	items := g.next.items
	g.next = nil
	return items
}
