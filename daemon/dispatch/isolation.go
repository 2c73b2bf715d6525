package dispatch

import (
	"fmt"

	"stoker/engine"
	"stoker/store/batchfile"
	"stoker/store/journal"
)

// isolation finds the request that brings the engine down. Requests that were in flight at two deaths run by
// themselves, in halves: a half that survives is cleared, one that does not is halved again, and a request that brings
// the engine down twice alone is given up. With n requests in flight that takes at most ⌈log2 n⌉ + 3 deaths: two to
// become suspects, ⌈log2 n⌉ down to one, and one more to be sure.
type isolation struct {
	groups [][]*flight // to be tried, one after another
	trying bool        // a group is in flight
}

// aloneDeaths is how often a request must bring the engine down alone to be given up: once may be chance.
const aloneDeaths = 2

func (i *isolation) active() bool { return i.trying || len(i.groups) > 0 }

// first puts groups before all others.
func (i *isolation) first(groups ...[]*flight) { i.groups = append(groups, i.groups...) }

// next submits the next group once the one before has landed.
func (i *isolation) next(d *Dispatcher, out *[]engine.Request) {
	if len(d.flights) > 0 || d.capacity.InFlight == 0 {
		return
	}
	i.trying = false
	if len(i.groups) == 0 {
		d.busy = true // back to sharing, in the next round
		return
	}
	group := i.groups[0]
	i.groups = i.groups[1:]
	i.trying = true
	for _, f := range group {
		d.submit(f, out)
	}
}

// lose takes back what the engine did not answer.
func (d *Dispatcher) lose(lost engine.Lost) error {
	var flights []*flight
	for _, key := range lost.Keys {
		if f := d.land(key); f != nil {
			flights = append(flights, f)
		}
	}
	if !lost.Blamed {
		d.takeBack(flights)
		return nil
	}
	d.o.Logger.Warn().Int("requests", len(flights)).Uint64("completed", d.totals.Completed).Str("reason", lost.Reason).Msg("requests in flight run again")
	for _, f := range flights {
		if err := d.blame(f, len(flights) == 1); err != nil {
			return err
		}
	}
	if d.isolation.trying {
		d.isolation.trying = false
		return d.halve(flights)
	}
	var suspects, others []*flight
	for _, f := range flights {
		if f.deaths >= 2 {
			suspects = append(suspects, f)
		} else {
			others = append(others, f)
		}
	}
	d.putBack(others)
	return d.halve(suspects)
}

// takeBack takes requests that never reached the engine. A group of suspects stays one.
func (d *Dispatcher) takeBack(flights []*flight) {
	if d.isolation.trying && len(flights) > 0 {
		d.isolation.trying = false
		d.isolation.first(flights)
		return
	}
	d.putBack(flights)
}

// putBack makes requests run again, before the batch's next ones.
func (d *Dispatcher) putBack(flights []*flight) {
	for _, f := range flights {
		f.run.retry = append(f.run.retry, f)
	}
}

// blame records durably, with the next commit, that the engine died while it held the request.
func (d *Dispatcher) blame(f *flight, alone bool) error {
	f.deaths++
	if alone {
		f.alone++
	}
	f.again = true
	f.run.dirty = true
	_, err := f.run.batch.Append(journal.Frame{Kind: journal.KindSuspect, Seq: f.seq, Status: uint16(min(f.deaths, 1<<15))})
	return d.patient(err)
}

// halve puts the two halves of a group that brought the engine down before all others. The later half is the first: what
// came before the culprit was mostly answered, so that it is probably in the other, and those who are not to blame need
// not wait until it is found. A request that did so alone is tried once more, then given up.
func (d *Dispatcher) halve(group []*flight) error {
	switch {
	case len(group) == 0:
		return nil
	case len(group) == 1 && group[0].alone >= aloneDeaths:
		return d.giveUp(group[0])
	case len(group) == 1:
		d.isolation.first(group)
		return nil
	}
	half := (len(group) + 1) / 2
	d.isolation.first(group[half:], group[:half])
	return nil
}

func (d *Dispatcher) giveUp(f *flight) error {
	d.totals.Quarantined++
	d.o.Logger.Error().Str("batch", f.run.id).Int64("line", f.req.Line).Int("deaths", f.deaths).
		Uint64("completed", d.totals.Completed).Msg("request brings the engine down; given up")
	return d.recordFailure(f.run, f.seq, &f.req.Ref, batchfile.Failure{
		Code:    batchfile.CodeEngineCrashed,
		Message: fmt.Sprintf("the engine died %d times while it held this request, %d times with nothing else", f.deaths, f.alone),
	})
}
