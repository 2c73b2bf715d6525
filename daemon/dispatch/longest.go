package dispatch

import (
	"cmp"
	"errors"
	"math"
	"slices"

	"github.com/go-json-experiment/json"

	"stoker/store"
	"stoker/store/batchfile"
)

// The end of the queue is reached with the longest answers first: one that begins last keeps the engine waiting for it alone.
// As long as there is more to come, order does not matter.

const (
	// tail is how many requests may be left for that, as a multiple of what the engine holds. While as many steps are worked off
	// as the longest answer takes, the engine goes through longest/mean times what it holds; 8 is enough for all but rare lengths.
	tail = 8
	// tailBytes bounds the lines that are read for it beforehand: about a quarter of a second.
	tailBytes = 64 << 20
)

// longestFirst puts what is left of the batches in another order, once that is little and no batch waits to be opened. What
// the engine takes all at once stays as it is.
func (d *Dispatcher) longestFirst(ready []*run, free int) {
	if len(d.waiting) > 0 {
		return
	}
	left := 0
	for _, r := range ready {
		left += len(r.rest) + r.batch.Left()
	}
	if left <= free || left > tail*d.capacity.InFlight {
		return
	}
	for _, r := range ready {
		d.sortRest(r)
	}
}

// sortRest takes the rest of a batch, and sorts it by how long the answers may get; what may get equally long stays in input
// order.
func (d *Dispatcher) sortRest(r *run) {
	if r.rest != nil {
		return
	}
	rest, err := r.batch.Rest(tailBytes)
	longest := make(map[uint32]int64, len(rest))
	for i := 0; err == nil && i < len(rest); i++ {
		d.o.Pulse.Beat()
		longest[rest[i]], err = r.longest(rest[i])
	}
	if err != nil {
		d.setAside(r, err)
		return
	}
	slices.SortStableFunc(rest, func(a, b uint32) int { return cmp.Compare(longest[b], longest[a]) })
	r.rest = rest
}

// longest is how many tokens the answer to a request may have: what the line says, or else the defaults. One that nobody
// bounds is the longest.
func (r *run) longest(seq uint32) (int64, error) {
	req, err := r.batch.Request(seq)
	if bad := (*batchfile.LineError)(nil); errors.As(err, &bad) {
		return 0, nil
	}
	return cmp.Or(req.MaxTokens, r.maxTokens, math.MaxInt64), err
}

// next returns the batch's next request that has not been submitted in this life.
func (r *run) next() (seq uint32, ok bool) {
	if r.rest == nil {
		return r.batch.Next()
	}
	if len(r.rest) == 0 {
		return 0, false
	}
	seq, r.rest = r.rest[0], r.rest[1:]
	return seq, true
}

// defaultMaxTokens is how long answers may get to lines that do not say, 0 if nobody says.
func defaultMaxTokens(m *store.Meta) int64 {
	var limits struct {
		Tokens     int64 `json:"max_tokens"`
		Completion int64 `json:"max_completion_tokens"`
	}
	if err := json.Unmarshal(m.Defaults, &limits); err != nil {
		return 0 // defaults of another kind, or none: it is about the order only
	}
	return cmp.Or(limits.Completion, limits.Tokens)
}
