package pulse

import "time"

// Owner is a goroutine that a Monitor watches.
type Owner struct {
	Name  string
	Pulse *Pulse
	After *Pulse // of another owner, for whose turn to end it may have to wait; nil: of none
}

// Monitor finds owners that hang. Its methods are called from one goroutine.
type Monitor struct {
	patience time.Duration
	every    time.Duration // between two looks
	stalled  func() bool
	owners   []watched
	looked   time.Time
}

type watched struct {
	Owner
	seen  uint64    // beats
	since time.Time // when it gave its last sign of life, as far as a look has shown
	hangs bool      // as of the last look
}

// NewMonitor watches owners, each of which may keep silent for patience, and is to look every so often. While stalled says
// that what all of them need does not come on, nobody hangs.
func NewMonitor(patience, every time.Duration, stalled func() bool, owners ...Owner) *Monitor {
	m := &Monitor{patience: patience, every: every, stalled: stalled, looked: time.Now()}
	for _, o := range owners {
		m.owners = append(m.owners, watched{Owner: o, seen: o.Pulse.beats.Load(), since: time.Now()})
	}
	return m
}

// Hung is an owner that hangs.
type Hung struct {
	Name  string
	Since time.Time
}

// Look returns the owners that hang, and asks each for the next look. One that comes late itself counts anew for those that
// did not hang before: the process was stopped (SIGSTOP, a frozen control group, a virtual machine that was paused), the
// owners with it.
func (m *Monitor) Look() (hung []Hung) {
	now, stalled := time.Now(), m.stalled()
	late := now.Sub(m.looked) > m.every+m.every/2
	m.looked = now
	for i := range m.owners {
		w := &m.owners[i]
		beats := w.Pulse.beats.Load()
		if stalled || late && !w.hangs || beats != w.seen || w.Pulse.excused() || w.After != nil && w.After.excused() {
			w.seen, w.since = beats, now
		}
		if w.hangs = now.Sub(w.since) > m.patience; w.hangs {
			hung = append(hung, Hung{w.Name, w.since})
		}
		w.Pulse.ask()
	}
	return hung
}

// Answer beats for somebody who answers questions, but has no pulse, until done is closed: it asks whenever it is asked.
func (p *Pulse) Answer(done <-chan struct{}, ask func()) {
	for {
		select {
		case <-done:
			return
		case <-p.asked:
			ask()
			p.Beat()
		}
	}
}
