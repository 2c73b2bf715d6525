package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/rs/zerolog"
)

// Options are what a Supervisor needs.
type Options struct {
	Kind     string
	Instance string // marks the worker's processes
	LogDir   string // worker.log goes there
	// Prepare finds out how to start the worker, anew for each start. A *PermanentError stops the supervisor.
	Prepare   func(context.Context) (Launch, error)
	InFlight  int           // requests to hold; 0: 1.25 x the engine's batch size
	LoadStall time.Duration // longest silence while loading
	Hang      time.Duration // longest time without a sign of work while requests are in flight
	Logger    zerolog.Logger
}

const (
	pingEvery = 2 * time.Second
	// silence is how long a worker may not answer pings. Its reader thread shares Python's lock with imports, which
	// hold it for seconds at a time.
	silence     = 2 * time.Minute
	stopTimeout = 10 * time.Second
	// minBackOff and maxBackOff bound the pause before another start; it doubles while workers die before they are ready.
	minBackOff = time.Second
	maxBackOff = 5 * time.Minute
	// quickRestart is the pause after a worker that was at work: isolating a poison request takes several deaths.
	quickRestart = 100 * time.Millisecond
)

// Supervisor keeps one worker alive. Its goroutine owns all state; the methods may be called from any.
type Supervisor struct {
	o      Options
	events chan Event
	submit chan []Request
	cancel chan []Key
	status chan chan Status
	stop   chan struct{}
	done   chan struct{}

	// Only used by the run goroutine.
	state      Status
	pending    []Event // not yet taken by the receiver
	inFlight   map[Key]struct{}
	sent       map[string]bool // ids of defaults that the worker knows
	starts     int
	backOff    time.Duration
	heard      time.Time // last message of any kind
	progressed time.Time // last sign of work
	lastStats  message
	lastStatAt time.Time
	fatal      *message
	greeted    bool // the worker said hello
}

// NewSupervisor starts a supervisor, which starts a worker at once.
func NewSupervisor(o Options) *Supervisor {
	s := &Supervisor{
		o: o, events: make(chan Event), submit: make(chan []Request), cancel: make(chan []Key),
		status: make(chan chan Status), stop: make(chan struct{}), done: make(chan struct{}),
		inFlight: map[Key]struct{}{},
	}
	s.state = Status{Kind: o.Kind}
	s.enter(Starting)
	go s.run()
	return s
}

// Events returns what happens, in order. It is closed when the supervisor has stopped.
func (s *Supervisor) Events() <-chan Event { return s.events }

// Submit hands requests to the worker. If there is none they come back as Lost.
func (s *Supervisor) Submit(requests []Request) {
	select {
	case s.submit <- requests:
	case <-s.done:
	}
}

// Cancel forgets requests: no answer for them will come.
func (s *Supervisor) Cancel(keys []Key) {
	select {
	case s.cancel <- keys:
	case <-s.done:
	}
}

// Status returns what the engine is doing now.
func (s *Supervisor) Status() Status {
	reply := make(chan Status, 1)
	select {
	case s.status <- reply:
		return <-reply
	case <-s.done:
		return s.state
	}
}

// Stop ends the worker, with all its processes, and waits for it.
func (s *Supervisor) Stop() {
	select {
	case <-s.done:
	case s.stop <- struct{}{}:
		<-s.done
	}
}

var errStop = errors.New("the engine is stopped")

func (s *Supervisor) run() {
	defer close(s.done)
	defer close(s.events)
	for {
		err := s.live()
		if errors.Is(err, errStop) {
			s.enter(Stopped)
			return
		}
		s.mourn(err)
		if !s.pause() {
			s.enter(Stopped)
			return
		}
	}
}

func (s *Supervisor) enter(state State) {
	s.state.State, s.state.Since = state, time.Now()
	s.state.Phase, s.state.Detail = "", ""
	s.o.Logger.Debug().Str("state", string(state)).Msg("engine")
}

// live is one life of a worker, from its start to its end, which is always an error.
func (s *Supervisor) live() error {
	s.enter(Starting)
	launch, err := s.o.Prepare(context.Background())
	if err != nil {
		return err
	}
	log, err := openLog(filepath.Join(s.o.LogDir, "worker.log"))
	if err != nil {
		return fmt.Errorf("open worker log: %w", err)
	}
	defer log.Close()
	s.starts++
	p, err := startProcess(launch, fmt.Sprintf("%s:%d", s.o.Instance, s.starts), log)
	if err != nil {
		return &PermanentError{Message: err.Error()}
	}
	s.begin(p, launch)
	cause := s.serve(p)
	if errors.Is(cause, errStop) {
		s.shutDown(p)
	}
	exit, killErr := p.kill()
	if killErr != nil {
		s.o.Logger.Error().Err(killErr).Msg("worker is not gone")
	}
	s.state.PID, s.state.Capacity = 0, 0
	if errors.Is(cause, errStop) {
		return errStop
	}
	s.state.LogTail = p.tail.cause()
	return s.explain(cause, exit)
}

func (s *Supervisor) begin(p *process, launch Launch) {
	s.enter(Loading)
	s.state.PID = p.cmd.Process.Pid
	s.sent = map[string]bool{}
	s.fatal, s.greeted = nil, false
	s.heard, s.progressed = time.Now(), time.Now()
	s.lastStats, s.lastStatAt = message{}, time.Time{}
	start := startMessage{Type: "start", Protocol: ProtocolVersion, Model: launch.Model, ServedNames: launch.ServedNames, Args: launch.Args}
	p.send(func(b []byte) []byte {
		line, err := json.Marshal(start)
		if err != nil {
			s.o.Logger.Error().Err(err).Msg("encode start message")
		}
		return append(append(b, line...), '\n')
	})
}

// serve feeds a worker until it dies, hangs or is stopped.
func (s *Supervisor) serve(p *process) error {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		out, next := s.outgoing()
		select {
		case out <- next:
			s.pending = s.pending[1:]
		case batch, open := <-p.messages:
			if !open {
				return errors.New("the worker closed its pipe")
			}
			if err := s.receive(batch); err != nil {
				return err
			}
		case requests := <-s.submit:
			s.feed(p, requests)
		case keys := <-s.cancel:
			for _, k := range keys {
				delete(s.inFlight, k)
			}
			p.send(func(b []byte) []byte { return appendCancel(b, keys) })
		case reply := <-s.status:
			reply <- s.snapshot(p)
		case <-tick.C:
			if err := s.checkClocks(p); err != nil {
				return err
			}
			p.send(func(b []byte) []byte { return append(b, "{\"type\":\"ping\",\"seq\":0}\n"...) })
		case <-s.stop:
			return errStop
		}
	}
}

// outgoing returns the channel to send the oldest pending event to, nil if there is none.
func (s *Supervisor) outgoing() (chan<- Event, Event) {
	if len(s.pending) == 0 {
		return nil, nil
	}
	return s.events, s.pending[0]
}

func (s *Supervisor) feed(p *process, requests []Request) {
	if s.state.State != Ready {
		s.giveBack(requests)
		return
	}
	if len(s.inFlight) == 0 {
		s.progressed = time.Now() // the hang clock starts with the first request
	}
	p.send(func(b []byte) []byte {
		for _, r := range requests {
			s.inFlight[r.Key] = struct{}{}
			if r.Defaults != nil && !s.sent[r.Defaults.ID] {
				s.sent[r.Defaults.ID] = true
				b = appendDefaults(b, r.Defaults)
			}
			b = appendRequest(b, r)
		}
		return b
	})
}

func (s *Supervisor) giveBack(requests []Request) {
	lost := Lost{Reason: "the engine is not ready"}
	for _, r := range requests {
		lost.Keys = append(lost.Keys, r.Key)
	}
	s.pending = append(s.pending, lost)
}

func (s *Supervisor) receive(batch []message) error {
	s.heard = time.Now()
	var answers Answers
	for i := range batch {
		m := &batch[i]
		if m.Type != "result" && m.Type != "error" {
			if err := s.handle(m); err != nil {
				return err
			}
			continue
		}
		if _, ours := s.inFlight[m.Key]; ours {
			delete(s.inFlight, m.Key)
			answers = append(answers, Answer{Key: m.Key, Status: m.Status, Body: m.Body})
		}
	}
	if len(answers) > 0 {
		s.progressed = s.heard
		s.pending = append(s.pending, answers)
	}
	return nil
}

func (s *Supervisor) handle(m *message) error {
	switch m.Type {
	case "hello":
		if m.Protocol != ProtocolVersion {
			return &PermanentError{Message: fmt.Sprintf("the worker speaks protocol %d, stoker %d", m.Protocol, ProtocolVersion)}
		}
		s.greeted = true
		s.state.Version, s.state.Untested = m.Version, m.Tested != nil && !*m.Tested
	case "phase":
		s.progressed = s.heard
		if m.Phase != s.state.Phase {
			s.state.Phase, s.state.PhaseSince = m.Phase, s.heard
			s.o.Logger.Info().Str("phase", m.Phase).Str("detail", m.Detail).Msg("engine is loading")
		}
		s.state.Detail = m.Detail
	case "ready":
		s.ready(m)
	case "stats":
		s.takeStats(m)
	case "fatal":
		s.fatal = m
		return errors.New(m.Message)
	case "garbage":
		return errors.New(m.Message)
	}
	return nil
}

func (s *Supervisor) ready(m *message) {
	s.enter(Ready)
	s.state.Reason, s.state.Hint, s.state.LogTail, s.state.RetryAt = "", "", nil, time.Time{}
	s.state.Model, s.state.MaxModelLen, s.state.MaxNumSeqs = m.Model, m.MaxModelLen, m.MaxNumSeqs
	s.state.KVTokens, s.state.LoadSeconds = m.KVTokens, m.LoadSeconds
	s.state.Capacity = s.o.InFlight
	if s.state.Capacity == 0 {
		s.state.Capacity = max(1, int(math.Ceil(1.25*float64(m.MaxNumSeqs))))
	}
	s.o.Logger.Info().Str("model", m.Model).Str("version", s.state.Version).Int("max_num_seqs", m.MaxNumSeqs).
		Float64("load_seconds", m.LoadSeconds).Msg("engine is ready")
	s.pending = append(s.pending, Capacity{InFlight: s.state.Capacity, Model: m.Model, Version: s.state.Version})
}

func (s *Supervisor) takeStats(m *message) {
	if m.Steps != s.lastStats.Steps || m.GenerationTokens != s.lastStats.GenerationTokens || m.PromptTokens != s.lastStats.PromptTokens {
		s.progressed = s.heard
	}
	if seconds := s.heard.Sub(s.lastStatAt).Seconds(); !s.lastStatAt.IsZero() && seconds > 0 {
		s.state.OutputRate = float64(m.GenerationTokens-s.lastStats.GenerationTokens) / seconds
	}
	s.lastStats, s.lastStatAt = *m, s.heard
	s.state.Running, s.state.Waiting, s.state.KVCache = m.Running, m.Waiting, m.KVCache
	s.state.PromptTokens, s.state.OutputTokens = m.PromptTokens, m.GenerationTokens
}

// checkClocks is the three clocks: liveness, stall while loading, hang with requests in flight.
func (s *Supervisor) checkClocks(p *process) error {
	now := time.Now()
	if d := now.Sub(s.heard); d > silence {
		return fmt.Errorf("the worker has not answered for %s", d.Round(time.Second))
	}
	if s.state.State == Loading {
		last := s.progressed
		if l := p.tail.lastLine(); l.After(last) {
			last = l
		}
		if d := now.Sub(last); d > s.o.LoadStall {
			return fmt.Errorf("loading stalled: no sign of progress for %s (engine.load_stall)", d.Round(time.Second))
		}
	}
	if d := now.Sub(s.progressed); s.state.State == Ready && len(s.inFlight) > 0 && d > s.o.Hang {
		return fmt.Errorf("the engine hangs: %d requests in flight and no token for %s (engine.hang)", len(s.inFlight), d.Round(time.Second))
	}
	return nil
}

func (s *Supervisor) snapshot(p *process) Status {
	st := s.state
	st.InFlight = len(s.inFlight)
	if p != nil && st.State == Loading {
		st.LogTail = p.tail.cause()
	}
	return st
}

// shutDown asks the worker to leave, so that it can free what the kernel does not free for it.
func (s *Supervisor) shutDown(p *process) {
	p.send(func(b []byte) []byte { return append(b, "{\"type\":\"stop\"}\n"...) })
	timeout := time.NewTimer(stopTimeout)
	defer timeout.Stop()
	for {
		select {
		case _, open := <-p.messages:
			if !open {
				return
			}
		case <-timeout.C:
			return
		}
	}
}

// explain makes one error of why a worker ended: what it said itself, else what killed it, with its last words.
func (s *Supervisor) explain(cause, exit error) error {
	var permanent *PermanentError
	switch {
	case errors.As(cause, &permanent):
		return permanent
	case s.fatal != nil && s.fatal.Permanent:
		return &PermanentError{Message: s.fatal.Message, Hint: s.fatal.Hint}
	case s.fatal != nil:
		s.state.Hint = s.fatal.Hint
		return errors.New(s.fatal.Message)
	case !s.greeted && !strings.HasPrefix(exitText(exit), "killed"):
		// Dead before its first word: the script itself does not run there.
		return &PermanentError{
			Message: fmt.Sprintf("the worker ended before it could say hello (%s): %s", exitText(exit), strings.Join(s.state.LogTail, " | ")),
			Hint:    "run 'stoker doctor', or look at worker.log in the state folder",
		}
	}
	return fmt.Errorf("%w: %s", cause, exitText(exit))
}

// mourn reports what a worker's end cost, and decides when the next one starts.
func (s *Supervisor) mourn(err error) {
	worked := s.state.State == Ready && len(s.inFlight) > 0
	s.pending = append(s.pending, Capacity{})
	if len(s.inFlight) > 0 {
		lost := Lost{Blamed: true, Reason: err.Error()}
		for k := range s.inFlight {
			lost.Keys = append(lost.Keys, k)
		}
		clear(s.inFlight)
		s.pending = append(s.pending, lost)
	}
	s.state.Reason = err.Error()
	s.state.Running, s.state.Waiting, s.state.KVCache, s.state.OutputRate = 0, 0, 0, 0
	var permanent *PermanentError
	if errors.As(err, &permanent) {
		s.state.Hint = permanent.Hint
		s.enter(Failed)
		s.o.Logger.Error().Str("reason", s.state.Reason).Str("hint", s.state.Hint).Msg("engine is down for good")
		return
	}
	s.state.Restarts++
	pause := quickRestart
	if worked {
		s.backOff = 0
	} else {
		s.backOff = min(max(2*s.backOff, minBackOff), maxBackOff)
		pause = s.backOff/2 + rand.N(s.backOff/2+1)
	}
	s.enter(BackOff)
	s.state.RetryAt = time.Now().Add(pause)
	s.o.Logger.Warn().Str("reason", s.state.Reason).Strs("log", s.state.LogTail).Float64("retry_seconds", pause.Seconds()).Msg("engine died")
}

// pause waits until the next start, for ever after a permanent failure. It reports false if stopped.
func (s *Supervisor) pause() bool {
	var retry <-chan time.Time
	if s.state.State == BackOff {
		timer := time.NewTimer(time.Until(s.state.RetryAt))
		defer timer.Stop()
		retry = timer.C
	}
	for {
		out, next := s.outgoing()
		select {
		case out <- next:
			s.pending = s.pending[1:]
		case <-retry:
			return true
		case requests := <-s.submit:
			s.giveBack(requests)
		case <-s.cancel:
		case reply := <-s.status:
			reply <- s.snapshot(nil)
		case <-s.stop:
			return false
		}
	}
}
