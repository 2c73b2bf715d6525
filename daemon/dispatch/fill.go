package dispatch

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"github.com/go-json-experiment/json"

	"stoker/engine"
	"stoker/store"
	"stoker/store/batchfile"
)

// maxRound bounds the lines that one round reads, so that a file of a million bad lines does not hold up the answers.
const maxRound = 4096

// fill submits requests until the engine holds as many as it wants.
func (d *Dispatcher) fill() error {
	d.busy = false
	if d.draining || d.full != nil {
		return nil
	}
	var out []engine.Request
	defer func() {
		if len(out) > 0 {
			d.o.Engine.Submit(out)
		}
	}()
	if err := d.refuseAll(); err != nil {
		return err
	}
	if d.isolation.active() {
		d.isolation.next(d, &out)
		return nil
	}
	return d.share(&out)
}

// share gives free places to the batches that hold the fewest, so that a small file behind a large one starts at once.
func (d *Dispatcher) share(out *[]engine.Request) error {
	for round := 0; round < maxRound; {
		free := d.capacity.InFlight - len(d.flights)
		ready := d.ready()
		if free <= 0 || len(ready) == 0 || d.flightBytes >= d.flightLimit {
			return nil
		}
		d.longestFirst(ready, free)
		k, n := portion(ready, free)
		for _, r := range ready[:k] {
			lines, err := d.serve(r, n, maxRound-round, out)
			if err != nil {
				return err
			}
			round += max(lines, 1)
		}
	}
	d.busy = true
	return nil
}

// portion decides that the first k batches get n places each: those that hold the fewest, until they hold as many as
// the next ones.
func portion(ready []*run, free int) (k, n int) {
	fewest := ready[0].inFlight
	for k = 1; k < len(ready) && ready[k].inFlight == fewest; {
		k++
	}
	n = max(1, free/k)
	if k < len(ready) {
		n = min(n, ready[k].inFlight-fewest)
	}
	return min(k, free), n
}

// ready returns the batches that have requests to submit, those that hold the fewest places first.
func (d *Dispatcher) ready() []*run {
	var ready []*run
	for _, r := range d.runs {
		if !r.ended && !r.leftOut && r.batch.Meta.Refused == nil && !r.foreignModel(d.capacity.Model) {
			ready = append(ready, r)
		}
	}
	slices.SortFunc(ready, func(a, b *run) int {
		return cmp.Or(cmp.Compare(a.inFlight, b.inFlight), cmp.Compare(a.turn, b.turn))
	})
	return ready
}

// foreignModel reports whether the batch began with another model than the one that is loaded.
func (r *run) foreignModel(model string) bool {
	began := r.batch.Record.Model()
	return began != "" && model != "" && began != model
}

// serve submits up to n requests of one batch, reading up to limit lines for them.
func (d *Dispatcher) serve(r *run, n, limit int, out *[]engine.Request) (lines int, err error) {
	d.turns++
	r.turn = d.turns
	for n > 0 && lines < limit && d.flightBytes < d.flightLimit {
		d.o.Pulse.Beat() // a line that cannot run may have 16 MiB
		f, ok, err := d.nextFlight(r)
		if err != nil {
			return lines, err
		}
		if !ok {
			r.ended = true // until answers move the window, or lost requests come back
			return lines, nil
		}
		lines++
		if f != nil {
			d.submit(f, out)
			n--
		}
	}
	return lines, nil
}

// nextFlight returns a batch's next request. It is nil for a line that cannot run, whose error is recorded at once.
func (d *Dispatcher) nextFlight(r *run) (*flight, bool, error) {
	if len(r.retry) > 0 {
		f := r.retry[0]
		r.retry = r.retry[1:]
		return f, true, nil
	}
	seq, ok := r.next()
	if !ok {
		return nil, false, nil
	}
	req, err := r.batch.Request(seq)
	var bad *batchfile.LineError
	if errors.As(err, &bad) {
		return nil, true, d.recordFailure(r, seq, &bad.Ref, batchfile.Failure{Code: bad.Code, Message: bad.Message})
	}
	if err != nil {
		d.leaveOutRun(r, err)
		return nil, false, nil
	}
	r.dirty = r.batch.HandOut(seq) || r.dirty
	return newFlight(r, seq, req), true, nil
}

// leaveOutRun leaves out a batch whose lines cannot be read: it costs itself. What the engine holds of it is recorded, and
// the next start tries again.
func (d *Dispatcher) leaveOutRun(r *run, err error) {
	r.leftOut = true
	d.leaveOut(r.id, err)
}

// newFlight copies what the request aliases: the snapshot's buffer is overwritten by the next line.
func newFlight(r *run, seq uint32, req batchfile.Request) *flight {
	req.Body = bytes.Clone(req.Body)
	req.Metadata = bytes.Clone(req.Metadata)
	return &flight{run: r, seq: seq, req: req, size: len(req.Body), deaths: r.batch.Deaths(seq)}
}

func (d *Dispatcher) submit(f *flight, out *[]engine.Request) {
	if *out == nil {
		*out = make([]engine.Request, 0, d.capacity.InFlight-len(d.flights))
	}
	d.nextKey++
	d.flights[d.nextKey] = f
	d.flightBytes += f.size
	f.run.inFlight++
	if f.again {
		d.countAgain(f)
	}
	*out = append(*out, engine.Request{
		Key: d.nextKey, URL: f.req.URL, Simple: f.req.Form == batchfile.Simple, Body: f.req.Body, Line: f.req.Line, Defaults: f.run.defaults,
	})
}

// countAgain counts a request that runs again after a death of the engine. Until it does, it is one that a crash of stoker
// would make run again, and is counted then.
func (d *Dispatcher) countAgain(f *flight) {
	f.again = false
	d.totals.Redone++
	f.run.batch.Progress().Redone++
	f.run.dirty = true
}

// land takes a request out of flight. It returns nil for a key that is not in flight: answers come at least once.
func (d *Dispatcher) land(key engine.Key) *flight {
	f := d.flights[key]
	if f == nil {
		return nil
	}
	delete(d.flights, key)
	d.flightBytes -= f.size
	f.run.inFlight--
	f.run.ended = false
	return f
}

// refuseAll records an error for every request of the batches that fail as a whole. It needs no engine.
func (d *Dispatcher) refuseAll() error {
	for _, r := range d.runs {
		refused := r.batch.Meta.Refused
		if refused == nil || r.ended || r.leftOut {
			continue
		}
		for range maxRound {
			d.o.Pulse.Beat()
			seq, ok := r.batch.Next()
			if !ok || r.leftOut {
				r.ended = true
				break
			}
			if err := d.refuse(r, seq, refused); err != nil {
				return err
			}
		}
		d.busy = d.busy || !r.ended
	}
	return nil
}

func (d *Dispatcher) refuse(r *run, seq uint32, refused *store.Refusal) error {
	req, err := r.batch.Request(seq)
	failure := batchfile.Failure{Code: refused.Code, Message: "the file was refused: " + refused.Message}
	ref := req.Ref
	var bad *batchfile.LineError
	if errors.As(err, &bad) {
		ref, failure.Code, failure.Message = bad.Ref, bad.Code, bad.Message
	} else if err != nil {
		d.leaveOutRun(r, err)
		return nil
	}
	return d.recordFailure(r, seq, &ref, failure)
}

func newDefaults(m *store.Meta) *engine.Defaults {
	params, err := json.Marshal(m.Defaults, json.Deterministic(true))
	if err != nil {
		params = []byte("{}") // cannot be: they came out of meta.json
	}
	return &engine.Defaults{ID: m.ID, Params: params}
}
