package engine

import (
	"cmp"
	"slices"
	"sync"

	"stoker/engine/processes"
)

// Engine is one replica, or several that stand for one. The methods may be called from any goroutine.
type Engine interface {
	Submit([]Request)
	Cancel([]Key)
	Events() <-chan Event
	Status() Status
	Leftovers() ([]processes.Process, error)
	Stop()
	Kill()
}

var (
	_ Engine = (*supervisor)(nil)
	_ Engine = (*replicas)(nil)
)

// replicas make one engine of several. A request goes to the one that has the most free places; what one of them loses is
// lost alone. Its goroutine owns all state; the methods may be called from any.
type replicas struct {
	all    []*member
	events chan Event
	submit chan []Request
	cancel chan []Key
	heard  chan heard
	done   chan struct{}

	// Only used by the run goroutine.
	pending []Event // not yet taken by the receiver
	holder  map[Key]*member
	told    Capacity // the last one that was told
}

// member is a replica with what is known of it. Only the run goroutine uses what may change.
type member struct {
	Engine
	capacity Capacity
	held     int // requests that it was given and has neither answered nor lost
}

func (m *member) free() int { return m.capacity.InFlight - m.held }

// heard is an event with its sender; nil means that there will be no more.
type heard struct {
	from  *member
	event Event
}

// newReplicas makes one engine of several, of which there must be at least one. They are its own from here on.
func newReplicas(engines []Engine) *replicas {
	r := &replicas{
		events: make(chan Event), submit: make(chan []Request), cancel: make(chan []Key), heard: make(chan heard),
		done: make(chan struct{}), holder: map[Key]*member{},
	}
	for _, one := range engines {
		m := &member{Engine: one}
		r.all = append(r.all, m)
		go r.listen(m)
	}
	go r.run()
	return r
}

// listen hands on what a replica tells until it has stopped.
func (r *replicas) listen(m *member) {
	for e := range m.Events() {
		r.heard <- heard{m, e}
	}
	r.heard <- heard{m, nil}
}

func (r *replicas) run() {
	defer close(r.done)
	defer close(r.events)
	for left := len(r.all); left > 0; {
		var out chan<- Event
		var next Event
		if len(r.pending) > 0 {
			out, next = r.events, r.pending[0]
		}
		select {
		case out <- next:
			r.pending = r.pending[1:]
		case requests := <-r.submit:
			r.spread(requests)
		case keys := <-r.cancel:
			r.forget(keys)
		case h := <-r.heard:
			if h.event == nil {
				left--
				continue
			}
			r.take(h.from, h.event)
		}
	}
}

// spread gives each request to the replica that has the most free places, or the least too many. One that is not ready gets
// none, unless none is: then the requests come back as lost.
func (r *replicas) spread(requests []Request) {
	shares := make(map[*member][]Request, len(r.all))
	for _, q := range requests {
		m := slices.MaxFunc(r.all, func(a, b *member) int {
			return cmp.Or(cmp.Compare(min(a.capacity.InFlight, 1), min(b.capacity.InFlight, 1)), cmp.Compare(a.free(), b.free()))
		})
		shares[m] = append(shares[m], q)
		r.holder[q.Key] = m
		m.held++
	}
	for _, m := range r.all {
		if len(shares[m]) > 0 {
			m.Submit(shares[m])
		}
	}
}

func (r *replicas) forget(keys []Key) {
	shares := make(map[*member][]Key, len(r.all))
	for _, k := range keys {
		if m := r.landed(k); m != nil {
			shares[m] = append(shares[m], k)
		}
	}
	for m, share := range shares {
		m.Cancel(share)
	}
}

// take hands on an event, a capacity as part of the sum of all. What the sum is after an event is told before it, so that places
// that are to vanish are not filled once more.
func (r *replicas) take(m *member, e Event) {
	switch e := e.(type) {
	case Capacity:
		m.capacity = e
		r.tellCapacity()
		return
	case Answers:
		for i := range e {
			r.landed(e[i].Key)
		}
	case Lost:
		for _, k := range e.Keys {
			r.landed(k)
		}
	}
	r.tellCapacity()
	r.pending = append(r.pending, e)
}

func (r *replicas) tellCapacity() {
	if sum := r.capacity(); sum != r.told {
		r.told = sum
		r.pending = append(r.pending, sum)
	}
}

// landed forgets who holds a request, and returns who did. Answers come at least once: later ones find nobody.
func (r *replicas) landed(k Key) *member {
	m := r.holder[k]
	if m != nil {
		delete(r.holder, k)
		m.held--
	}
	return m
}

// capacity is what the replicas that are ready hold together. One that holds too much counts with that: its places must not be
// missing where others have some.
func (r *replicas) capacity() Capacity {
	var sum Capacity
	for _, m := range r.all {
		if c := m.capacity; c.InFlight > 0 {
			sum.InFlight += max(c.InFlight, m.held)
			sum.Model, sum.Version = c.Model, c.Version
		}
	}
	return sum
}

// Submit hands requests to the replicas. If none is ready they come back as Lost.
func (r *replicas) Submit(requests []Request) {
	select {
	case r.submit <- requests:
	case <-r.done:
	}
}

// Cancel forgets requests: no answer for them will come.
func (r *replicas) Cancel(keys []Key) {
	select {
	case r.cancel <- keys:
	case <-r.done:
	}
}

// Events returns what happens, in order. It is closed when all replicas have stopped.
func (r *replicas) Events() <-chan Event { return r.events }

// Stop ends all replicas and waits for them.
func (r *replicas) Stop() { r.end(Engine.Stop) }

// Kill is Stop for workers that have no time, or no more time, to leave by themselves.
func (r *replicas) Kill() { r.end(Engine.Kill) }

func (r *replicas) end(one func(Engine)) {
	var all sync.WaitGroup
	for _, m := range r.all {
		all.Go(func() { one(m.Engine) })
	}
	all.Wait()
	<-r.done
}

// Leftovers returns the living processes of former workers of all replicas. There should be none.
func (r *replicas) Leftovers() (left []processes.Process, err error) {
	for _, m := range r.all {
		l, err := m.Leftovers()
		if err != nil {
			return nil, err
		}
		left = append(left, l...)
	}
	return left, nil
}

// Status sums up what the replicas do; that of each is in Replicas. The state and all that belongs to it are those of the
// replica that has come furthest: one that is ready makes the engine ready.
func (r *replicas) Status() Status {
	var all []Status
	first := 0
	for i, m := range r.all {
		all = append(all, m.Status())
		if all[i].State.rank() < all[first].State.rank() {
			first = i
		}
	}
	sum := all[first]
	for i := range all {
		if i != first {
			sum.add(&all[i])
		}
	}
	sum.Replicas = all
	return sum
}

// rank orders the states, the ones nearest to work first.
func (s State) rank() int {
	return slices.Index([]State{Ready, Loading, Starting, BackOff, Failed, Stopped}, s)
}

// add adds what replicas have together.
func (s *Status) add(other *Status) {
	s.MaxNumSeqs += other.MaxNumSeqs
	s.KVTokens += other.KVTokens
	s.Capacity += other.Capacity
	s.InFlight += other.InFlight
	s.Restarts += other.Restarts
	s.Running += other.Running
	s.Waiting += other.Waiting
	s.KVCache = max(s.KVCache, other.KVCache)
	s.PromptTokens += other.PromptTokens
	s.OutputTokens += other.OutputTokens
	s.OutputRate += other.OutputRate
}
