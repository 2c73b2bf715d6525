package engine

import (
	"cmp"
	"slices"
	"sync"

	"stoker/engine/processes"
)

// Replica is one of several engines that stand for one. It is what a Supervisor does.
type Replica interface {
	Submit([]Request)
	Cancel([]Key)
	Events() <-chan Event
	Status() Status
	Leftovers() ([]processes.Process, error)
	Stop()
	Kill()
}

var (
	_ Replica = (*Supervisor)(nil)
	_ Replica = (*Replicas)(nil)
)

// Replicas make one engine of several. A request goes to the one that has the most free places; what one of them loses is
// lost alone. Its goroutine owns all state; the methods may be called from any.
type Replicas struct {
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
	Replica
	capacity Capacity
	held     int // requests that it was given and has neither answered nor lost
}

func (m *member) free() int { return m.capacity.InFlight - m.held }

// heard is an event with its sender; nil means that there will be no more.
type heard struct {
	from  *member
	event Event
}

// NewReplicas makes one engine of several, of which there must be at least one. They are its own from here on.
func NewReplicas(replicas []Replica) *Replicas {
	r := &Replicas{
		events: make(chan Event), submit: make(chan []Request), cancel: make(chan []Key), heard: make(chan heard),
		done: make(chan struct{}), holder: map[Key]*member{},
	}
	for _, one := range replicas {
		m := &member{Replica: one}
		r.all = append(r.all, m)
		go r.listen(m)
	}
	go r.run()
	return r
}

// listen hands on what a replica tells until it has stopped.
func (r *Replicas) listen(m *member) {
	for e := range m.Events() {
		r.heard <- heard{m, e}
	}
	r.heard <- heard{m, nil}
}

func (r *Replicas) run() {
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
func (r *Replicas) spread(requests []Request) {
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

func (r *Replicas) forget(keys []Key) {
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

// take hands on an event, a capacity as part of the sum of all.
func (r *Replicas) take(m *member, e Event) {
	switch e := e.(type) {
	case Capacity:
		m.capacity = e
		if sum := r.capacity(); sum != r.told {
			r.told = sum
			r.pending = append(r.pending, sum)
		}
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
	r.pending = append(r.pending, e)
}

// landed forgets who holds a request, and returns who did. Answers come at least once: later ones find nobody.
func (r *Replicas) landed(k Key) *member {
	m := r.holder[k]
	if m != nil {
		delete(r.holder, k)
		m.held--
	}
	return m
}

func (r *Replicas) capacity() Capacity {
	var sum Capacity
	for _, m := range r.all {
		if c := m.capacity; c.InFlight > 0 {
			sum.InFlight += c.InFlight
			sum.Model, sum.Version = c.Model, c.Version
		}
	}
	return sum
}

// Submit hands requests to the replicas. If none is ready they come back as Lost.
func (r *Replicas) Submit(requests []Request) {
	select {
	case r.submit <- requests:
	case <-r.done:
	}
}

// Cancel forgets requests: no answer for them will come.
func (r *Replicas) Cancel(keys []Key) {
	select {
	case r.cancel <- keys:
	case <-r.done:
	}
}

// Events returns what happens, in order. It is closed when all replicas have stopped.
func (r *Replicas) Events() <-chan Event { return r.events }

// Stop ends all replicas and waits for them.
func (r *Replicas) Stop() { r.end(Replica.Stop) }

// Kill is Stop for workers that have no time, or no more time, to leave by themselves.
func (r *Replicas) Kill() { r.end(Replica.Kill) }

func (r *Replicas) end(one func(Replica)) {
	var all sync.WaitGroup
	for _, m := range r.all {
		all.Go(func() { one(m.Replica) })
	}
	all.Wait()
	<-r.done
}

// Leftovers returns the living processes of former workers of all replicas. There should be none.
func (r *Replicas) Leftovers() (left []processes.Process, err error) {
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
func (r *Replicas) Status() Status {
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
