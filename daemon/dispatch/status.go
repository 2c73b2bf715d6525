package dispatch

import (
	"slices"

	"stoker/store"
	"stoker/store/durable"
)

// Snapshot is the dispatcher as people see it.
type Snapshot struct {
	Running    []Running    `json:"running"`
	Waiting    []string     `json:"waiting"` // ids of accepted batches that wait for others to end
	Unreadable []Unreadable `json:"unreadable,omitzero"`
	InFlight   int          `json:"in_flight"`
	Isolating  bool         `json:"isolating"`     // suspects of an engine crash run by themselves
	Full       string       `json:"full,omitzero"` // why nothing is submitted

	Lacks  *durable.FullError `json:"-"` // what Full says
	Totals Totals             `json:"totals"`
}

// Unreadable is a batch whose folder in the state is damaged, so that it cannot go on.
type Unreadable struct {
	ID     string `json:"id"`
	Reason string `json:"reason"`
}

// ModelChanged is why a batch waits that began with another model than the one that is loaded.
const ModelChanged = "model_changed"

// Running is an open batch.
type Running struct {
	ID         string         `json:"id"`
	Name       store.FileName `json:"name"`
	Queue      string         `json:"queue"`
	Requests   uint32         `json:"requests"`
	Completed  uint32         `json:"completed"`
	Failed     uint32         `json:"failed"`
	Redone     uint32         `json:"redone"`
	InFlight   int            `json:"in_flight"`
	Rate       float64        `json:"requests_per_second"`
	ETASeconds float64        `json:"eta_seconds,omitzero"`
	Tokens     uint64         `json:"completion_tokens"`
	Reason     string         `json:"reason,omitzero"` // why it waits
}

// Snapshot returns what runs now. After Run has returned it is empty.
func (d *Dispatcher) Snapshot() Snapshot {
	reply := make(chan Snapshot, 1)
	select {
	case d.calls <- func() { reply <- d.snapshot() }:
		return <-reply
	case <-d.done:
		return Snapshot{}
	}
}

func (d *Dispatcher) snapshot() Snapshot {
	s := Snapshot{
		Running: make([]Running, 0, len(d.runs)), Waiting: append([]string{}, d.waiting...),
		Unreadable: slices.Clone(d.unreadable), InFlight: len(d.flights), Isolating: d.isolation.active(), Totals: d.totals,
	}
	if d.full != nil {
		s.Full, s.Lacks = d.full.Error(), d.full
	}
	for _, r := range d.runs {
		s.Running = append(s.Running, d.describe(r))
	}
	return s
}

func (d *Dispatcher) describe(r *run) Running {
	p, m := r.batch.Progress(), r.batch.Meta
	v := Running{
		ID: r.id, Name: m.Name, Queue: m.Queue, Requests: m.Requests, Completed: p.Completed, Failed: p.Failed, Redone: p.Redone,
		InFlight: r.inFlight, Rate: r.meter.rate, Tokens: p.CompletionTokens,
	}
	if v.Rate > 0 {
		v.ETASeconds = float64(m.Requests-p.Records()) / v.Rate
	}
	switch {
	case r.leftOut:
		v.Reason = "damaged"
	case r.foreignModel(d.capacity.Model):
		v.Reason = ModelChanged
	case d.full != nil:
		v.Reason = d.full.Error()
	}
	return v
}

// meter is a rate that forgets: each second counts a tenth of what is left.
type meter struct {
	last uint32
	rate float64 // per second
	n    int     // seconds seen
}

const meterWeight = 0.1

func (m *meter) start(records uint32) { m.last = records }

func (m *meter) tick(records uint32) {
	delta := float64(records - m.last)
	m.last = records
	m.n++
	weight := max(meterWeight, 1/float64(m.n)) // plain average until there is enough to forget
	m.rate += weight * (delta - m.rate)
}
