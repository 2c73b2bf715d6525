package engine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"stoker/engine/protocol"
	"stoker/store/faults"
)

const (
	pingEvery = 2 * time.Second
	// silence is how long a worker may not answer pings. Its reader thread shares Python's lock with imports, which
	// hold it for seconds at a time.
	silence = 2 * time.Minute
)

// errEnded means that a worker is gone, or has closed its replies.
var errEnded = errors.New("the worker closed its replies, but does not end")

// serve feeds a worker until it dies, hangs or is to stop.
func (s *supervisor) serve(p *process) error {
	every := min(pingEvery, max(s.o.Hang/4, time.Millisecond), max(s.o.LoadStall/4, time.Millisecond))
	tick := time.NewTicker(every)
	defer tick.Stop()
	checked := time.Now()
	for {
		faults.Hang("engine")
		out, next := s.outgoing()
		select {
		case out <- next:
			s.pending = s.pending[1:]
		case r, open := <-p.replies:
			if !open {
				return errEnded
			}
			if err := s.receive(r); err != nil {
				return err
			}
		case <-p.child.Exited(): // something that it started may hold its replies open
			return errEnded
		case requests := <-s.submit:
			s.feed(p, requests)
		case keys := <-s.cancel:
			s.forget(keys)
			p.out.Send(func(b []byte) []byte { return appendCancel(b, keys) })
		case reply := <-s.status:
			reply <- s.snapshot()
		case reply := <-s.tree:
			reply <- s.life.tree()
		case <-tick.C:
			if late := time.Since(checked); late > 2*every {
				s.life.excuse(late)
			}
			checked = time.Now()
			if err := s.checkClocks(p); err != nil {
				return err
			}
			if s.life.greeted {
				p.out.Send(func(b []byte) []byte { return append(b, "{\"type\":\"ping\",\"seq\":0}\n"...) })
			}
		case <-s.ctx.Done():
			return s.ctx.Err()
		}
	}
}

func (s *supervisor) feed(p *process, requests []Request) {
	if s.state.State != Ready {
		s.giveBack(requests)
		return
	}
	s.life.fed = true
	if len(s.inFlight) == 0 {
		s.life.progressed = time.Now() // the hang clock starts with the first request
	}
	p.out.Send(func(b []byte) []byte {
		for _, r := range requests {
			s.inFlight[r.Key] = struct{}{}
			if r.Defaults != nil && !s.life.sent[r.Defaults.ID] {
				s.life.sent[r.Defaults.ID] = true
				b = appendDefaults(b, r.Defaults)
			}
			b = appendRequest(b, r)
		}
		return b
	})
}

// receive takes all replies, and returns the first error that ends the worker.
func (s *supervisor) receive(r replies) (end error) {
	s.life.heard = time.Now()
	for i := range r.messages {
		if err := s.handle(&r.messages[i]); end == nil {
			end = err
		}
	}
	answers := slices.DeleteFunc(r.answers, func(a Answer) bool { return !s.land(a.Key) })
	if len(answers) > 0 {
		s.life.progressed = s.life.heard
		s.report(answers)
	}
	return end
}

// land reports whether a request was in flight, which it is no longer.
func (s *supervisor) land(key Key) bool {
	_, ours := s.inFlight[key]
	delete(s.inFlight, key)
	return ours
}

// report queues answers, together with those that the receiver has not taken yet.
func (s *supervisor) report(answers Answers) {
	if last := len(s.pending) - 1; last >= 0 {
		if waiting, ok := s.pending[last].(Answers); ok {
			s.pending[last] = append(waiting, answers...)
			return
		}
	}
	s.pending = append(s.pending, answers)
}

func (s *supervisor) handle(m *message) error {
	switch m.Type {
	case "hello":
		return s.greet(m)
	case "phase":
		s.phase(m)
	case "ready":
		s.ready(m)
	case "stats":
		s.takeStats(m)
	case "fatal":
		s.life.fatal = m
		return errors.New(m.Message)
	case typeGarbage:
		return errors.New(m.Message)
	}
	return nil
}

// greet answers a worker's first word with what to load. Its group is recorded before, so that whatever it starts then can
// be found by a later life of stoker.
func (s *supervisor) greet(m *message) error {
	if m.Protocol != protocol.Version {
		return &PermanentError{Message: fmt.Sprintf("the worker speaks protocol %d, stoker %d", m.Protocol, protocol.Version)}
	}
	if s.life.greeted {
		return nil
	}
	s.life.greeted = true
	s.state.Version, s.state.Untested = m.Version, m.Tested != nil && !*m.Tested
	p := s.life.process
	if p == nil {
		return nil // these were its last words
	}
	var err error
	var past pastStarts
	s.meanwhile(func() { // a disk may take its time
		err = s.o.marks().RecordGroup(p.child.PID())
		past = readStarts(s.o.LogDir)
	})
	s.life.last = past.phases(s.startKind())
	if err != nil {
		s.o.Logger.Warn().Err(err).Msg("cannot record the worker's process group")
	}
	p.out.Send(func(b []byte) []byte { return append(b, s.life.start...) })
	return nil
}

func (s *supervisor) phase(m *message) {
	s.life.progressed = s.life.heard
	if m.Phase != s.state.Phase {
		s.state.Phase, s.state.PhaseSince = m.Phase, s.life.heard
		s.life.phases.enter(m.Phase, s.life.heard)
		s.o.Logger.Info().Str("phase", m.Phase).Str("detail", m.Detail).Msg("engine is loading")
	}
	s.state.Detail = m.Detail
}

func (s *supervisor) ready(m *message) {
	s.endTurn()
	s.enter(Ready)
	s.state.Reason, s.state.Hint, s.state.LogTail, s.state.RetryAt, s.state.Shortage = "", "", nil, time.Time{}, nil
	s.state.Model, s.state.MaxModelLen, s.state.MaxNumSeqs = m.Model, m.MaxModelLen, m.MaxNumSeqs
	s.state.KVTokens, s.state.LoadSeconds = m.KVTokens, m.LoadSeconds
	s.life.places = newPlaces(m.MaxNumSeqs, s.o.InFlight)
	s.o.Logger.Info().Str("model", m.Model).Str("version", s.state.Version).Int("max_num_seqs", m.MaxNumSeqs).
		Float64("load_seconds", m.LoadSeconds).Dict("phase_seconds", s.endPhases()).Msg("engine is ready")
	s.tellCapacity()
}

// tellCapacity reports how many requests the worker is to hold from now on.
func (s *supervisor) tellCapacity() {
	s.state.Capacity = s.life.places.now
	s.pending = append(s.pending, Capacity{InFlight: s.state.Capacity, Model: s.state.Model, Version: s.state.Version})
}

// startKind is what the worker's start can be compared with.
func (s *supervisor) startKind() startKind {
	return startKind{Engine: s.o.Kind, Model: s.life.model, Version: s.state.Version}
}

// endPhases ends the start, remembers how long it took, and tells.
func (s *supervisor) endPhases() *zerolog.Event {
	seconds := zerolog.Dict()
	ended := s.life.phases.end(s.life.heard)
	all := s.life.phases.at(s.life.heard, nil)
	if ended && s.life.phases.told() {
		s.remember(pastStart{s.startKind(), all})
	}
	for _, phase := range all {
		seconds.Float64(phase.Name, phase.Seconds)
	}
	return seconds
}

// remember does not wait for the disk: the engine is ready.
func (s *supervisor) remember(start pastStart) {
	s.writing.Go(func() {
		if err := rememberStart(s.o.LogDir, start); err != nil {
			s.o.Logger.Warn().Err(err).Msg("cannot remember how long the start took")
		}
	})
}

func (s *supervisor) takeStats(m *message) {
	l := &s.life
	if m.Steps != l.stats.Steps || m.GenerationTokens != l.stats.GenerationTokens || m.PromptTokens != l.stats.PromptTokens {
		l.progressed = l.heard
	}
	if seconds := l.heard.Sub(l.statsAt).Seconds(); !l.statsAt.IsZero() && seconds > 0 {
		s.state.OutputRate = float64(m.GenerationTokens-l.stats.GenerationTokens) / seconds
	}
	l.stats, l.statsAt = *m, l.heard
	s.state.Running, s.state.Waiting, s.state.KVCache = m.Running, m.Waiting, m.KVCache
	s.state.PromptTokens, s.state.OutputTokens = m.PromptTokens, m.GenerationTokens
	if s.state.Capacity == 0 {
		return // it does not answer, whatever it said before it ended
	}
	if l.places.follow(m.Running, m.Waiting, m.KVCache); l.places.now != s.state.Capacity {
		s.tellCapacity()
	}
}

// excuse forgives a worker the time in which nobody listened to it: stoker, or the whole machine, stood still, and what
// the worker said meanwhile may not have been read yet.
func (l *life) excuse(d time.Duration) {
	l.heard = l.heard.Add(d)
	l.progressed = l.progressed.Add(d)
}

// checkClocks is the three clocks: liveness, stall while loading, hang with requests in flight.
func (s *supervisor) checkClocks(p *process) error {
	now := time.Now()
	if d := now.Sub(s.life.heard); d > silence {
		return fmt.Errorf("the worker has not answered for %s", d.Round(time.Second))
	}
	last := s.life.progressed
	if s.state.State == Loading {
		if out := p.tail.lastOutput(); out.After(last) {
			last = out
		}
		if d := now.Sub(last); d > s.o.LoadStall {
			return fmt.Errorf("loading stalled: no sign of progress for %s (engine.load_stall)", d.Round(time.Second))
		}
		if now.Sub(s.state.PhaseSince) > s.o.LoadStall && now.Sub(s.state.Since) > s.o.LoadStall {
			s.endTurn() // it prints something, but others need not wait for what may never come
		}
		return nil
	}
	if d := now.Sub(last); len(s.inFlight) > 0 && d > s.o.Hang {
		return fmt.Errorf("the engine hangs: %d requests in flight and no token for %s (engine.hang)", len(s.inFlight), d.Round(time.Second))
	}
	return nil
}
