package dispatch

import (
	"cmp"
	"math"
	"slices"
)

// The last requests of each batch go longest answer first: one that began last would keep the engine waiting for it alone. As
// long as there is more to come, order does not matter.

const (
	// lastRounds is how many requests are the last ones, as a multiple of what the engine holds. While the longest answer is made,
	// the engine works off longest/mean times what it holds: with fewer left, it would have to wait for that answer. Lengths
	// that differ more than 8 times from their mean are rare.
	lastRounds = 8
	// lastBytes bounds the lines that are read for it beforehand, in one go.
	lastBytes = 64 << 20
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
	if left <= free || left > lastRounds*d.capacity.InFlight || leftBytes(ready) > lastBytes {
		return
	}
	for _, r := range ready {
		if r.rest == nil {
			d.sortRest(r)
		}
	}
}

// leftBytes are those of lines that are not sorted yet. Those of a batch whose index cannot be read are too many.
func leftBytes(ready []*run) (sum int64) {
	for _, r := range ready {
		if r.rest != nil {
			continue
		}
		n, err := r.batch.LeftBytes()
		if err != nil {
			return math.MaxInt64
		}
		sum += n
	}
	return sum
}

// sortRest takes the rest of a batch, and sorts it by how long the answers may get; what may get equally long stays in input
// order.
func (d *Dispatcher) sortRest(r *run) {
	r.rest = r.batch.Rest()
	limits := make(map[uint32]int64, len(r.rest))
	for _, seq := range r.rest {
		d.o.Pulse.Beat()
		limits[seq] = r.longest(seq)
	}
	slices.SortStableFunc(r.rest, func(a, b uint32) int { return cmp.Compare(limits[b], limits[a]) })
}

// longest is how many tokens the answer to a request may have: what the line says, or else the defaults. One that nobody
// bounds is the longest. A line that cannot run, or not be read, comes last: when its turn comes, that is dealt with.
func (r *run) longest(seq uint32) int64 {
	req, err := r.batch.Request(seq)
	if err != nil {
		return 0
	}
	return cmp.Or(req.MaxTokens, r.maxTokens, math.MaxInt64)
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
