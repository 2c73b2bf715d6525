package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/rs/zerolog"

	"stoker/engine/processes"
	"stoker/engine/protocol"
	"stoker/store/faults"
)

// Options are what an engine needs.
type Options struct {
	Kind     string
	Replica  int               // its number, from 1
	Instance string            // marks the worker's processes
	LogDir   string            // worker.log goes there
	former   []processes.Marks // of replicas that are no more, whose workers must be gone before this one's starts
	turns    *turns            // to load, of all replicas; nil if there is one
	cleared  func()            // tells them that this one's former workers are gone
	Cgroup   processes.Cgroup
	// Prepare finds out how to start the worker of a replica, anew for each start and each turn. A *PermanentError stops the engine.
	Prepare   func(ctx context.Context, replica int) (Launch, error)
	InFlight  int           // requests to hold; 0: as the engine's batch size and KV cache have room for
	LoadStall time.Duration // longest silence while loading
	Hang      time.Duration // longest time without a sign of work while requests are in flight
	Logger    zerolog.Logger
}

const (
	// stopTimeout is how long a worker may take to free what the kernel does not free for it.
	stopTimeout = 10 * time.Second
	// exitTimeout is how long a worker may take to end after its replies have, before it is killed and its exit status
	// is lost.
	exitTimeout = 2 * time.Second
)

// supervisor keeps one worker alive. Its goroutine owns all state; the methods may be called from any.
type supervisor struct {
	o      Options
	events chan Event
	submit chan []Request
	cancel chan []Key
	status chan chan Status
	tree   chan chan processes.Tree
	ctx    context.Context // ended by Stop
	stop   context.CancelFunc
	abort  chan struct{} // closed by Kill
	kill   func()        // closes abort
	done   chan struct{}

	// Only used by the run goroutine.
	state    Status
	pending  []Event // not yet taken by the receiver
	inFlight map[Key]struct{}
	alone    bool // no former worker lives
	backOff  time.Duration
	life     life
	writing  sync.WaitGroup // of how long the start took
}

// life is what the supervisor knows of the worker that runs, anew for each start.
type life struct {
	process    *process        // nil while there is none
	turn       *turn           // to load, nil if nobody else has to wait
	start      []byte          // what it is told when it has said hello
	model      string          // that it is told to load
	phases     phases          // of its start
	last       []Phase         // of the last comparable start
	env        []string        // of the worker
	oomKills   int64           // when it was started
	sent       map[string]bool // ids of defaults that the worker knows
	greeted    bool            // it said hello
	fed        bool            // it was given requests
	places     places          // for requests in it
	fatal      *message        // why it is about to exit
	heard      time.Time       // last message of any kind
	progressed time.Time       // last sign of work
	stats      message         // the last ones
	statsAt    time.Time
}

func (l *life) tree() processes.Tree {
	if l.process == nil {
		return processes.Tree{}
	}
	return l.process.child.Tree()
}

// newSupervisor starts a supervisor, which starts a worker at once.
func newSupervisor(o Options) *supervisor {
	s := &supervisor{
		o: o, events: make(chan Event), submit: make(chan []Request), cancel: make(chan []Key),
		status: make(chan chan Status), tree: make(chan chan processes.Tree), abort: make(chan struct{}), done: make(chan struct{}),
		inFlight: map[Key]struct{}{},
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.kill = sync.OnceFunc(func() { close(s.abort) })
	s.state = Status{Kind: o.Kind}
	s.enter(Starting)
	go s.run()
	return s
}

// Events returns what happens, in order. It is closed when the supervisor has stopped.
func (s *supervisor) Events() <-chan Event { return s.events }

// Submit hands requests to the worker. If there is none they come back as Lost.
func (s *supervisor) Submit(requests []Request) {
	select {
	case s.submit <- requests:
	case <-s.done:
	}
}

// Cancel forgets requests: no answer for them will come.
func (s *supervisor) Cancel(keys []Key) {
	select {
	case s.cancel <- keys:
	case <-s.done:
	}
}

// Status returns what the engine is doing now.
func (s *supervisor) Status() Status {
	reply := make(chan Status, 1)
	select {
	case s.status <- reply:
		return <-reply
	case <-s.done:
		return s.state
	}
}

// Stop ends the worker, with all its processes, and waits for it.
func (s *supervisor) Stop() {
	s.stop()
	<-s.done
}

// Kill is Stop for a worker that has no time, or no more time, to leave by itself.
func (s *supervisor) Kill() {
	s.kill()
	s.Stop()
}

// Leftovers returns the living processes of this stoker's workers that are not of the current one, those of replicas that are
// no more among them. There should be none.
func (s *supervisor) Leftovers() ([]processes.Process, error) {
	for {
		before := s.currentTree()
		left, err := s.o.leftovers(before)
		if err != nil || len(left) == 0 || before == s.currentTree() {
			return left, err
		}
		// A worker was started or ended under the search, and may have been taken for a former one.
	}
}

// currentTree is that of the worker that runs or is being killed.
func (s *supervisor) currentTree() processes.Tree {
	reply := make(chan processes.Tree, 1)
	select {
	case s.tree <- reply:
		return <-reply
	case <-s.done:
		return processes.Tree{}
	}
}

func (s *supervisor) run() {
	defer close(s.done)
	defer close(s.events)
	for s.ctx.Err() == nil {
		if err := s.live(); s.ctx.Err() == nil {
			s.mourn(err)
			s.pause()
		}
	}
	s.meanwhile(s.writing.Wait)
	s.enter(Stopped)
}

func (s *supervisor) enter(state State) {
	s.state.State, s.state.Since = state, time.Now()
	s.state.Phase, s.state.Detail, s.state.PhaseSince = "", "", time.Time{}
	s.o.Logger.Debug().Str("state", string(state)).Msg("engine")
}

// live is one life of a worker, from its start to its end, which is always an error.
func (s *supervisor) live() error {
	s.enter(Starting)
	s.life = life{sent: map[string]bool{}}
	defer s.endTurn()
	if err := s.clear(); err != nil {
		return err
	}
	var log *logFile
	var err error
	s.meanwhile(func() {
		s.writing.Wait() // two must not write at a time
		log, err = openLog(filepath.Join(s.o.LogDir, "worker.log"), logLimit)
	})
	if err != nil {
		return err
	}
	defer log.Close()
	p, err := s.start(log)
	if err != nil {
		return err
	}
	s.life.process = p
	s.life.heard, s.life.progressed = time.Now(), time.Now()
	s.life.phases = beginPhases(s.life.heard)
	s.enter(Loading)
	s.state.PID = p.child.PID()
	return s.bury(p, s.serve(p))
}

// clear kills what is left of former workers. While anything of them lives no other is started: the two would fight for
// the memory, and both would be fed.
func (s *supervisor) clear() error {
	if s.alone {
		return nil
	}
	var n int
	var err error
	s.meanwhile(func() { n, err = s.o.sweep() })
	if n > 0 {
		s.o.Logger.Warn().Int("processes", n).Msg("killed what a former worker left behind")
	}
	if s.alone = err == nil; s.alone && s.o.cleared != nil {
		s.o.cleared()
	}
	return err
}

// start finds out how to start a worker, and starts it.
func (s *supervisor) start(log *logFile) (*process, error) {
	launch, err := s.prepare()
	if err != nil {
		return nil, err
	}
	start, err := json.Marshal(startMessage{
		Type: "start", Protocol: protocol.Version, Model: launch.Model, ServedNames: launch.ServedNames, Args: launch.Args,
	})
	if err != nil {
		return nil, &PermanentError{Message: "encode engine arguments: " + err.Error()}
	}
	s.life.start, s.life.env, s.life.oomKills = append(start, '\n'), launch.Env, s.o.Cgroup.OOMKills()
	s.life.model = launch.Model
	var p *process
	s.meanwhile(func() { p, err = startProcess(launch, s.o.marks(), log) }) // its file may be on a share that hangs
	if s.life.turn != nil {
		s.life.turn.stall.Stop() // from here on the clocks watch the worker
	}
	if isPermanent(err) {
		return nil, &PermanentError{Message: err.Error()}
	}
	if err == nil && p.child.NoLeaf != nil {
		s.o.Logger.Warn().Err(p.child.NoLeaf).Msg("the worker has no control group of its own")
	}
	return p, err
}

// prepare finds out how to start a worker, and again if it had to wait for its turn to load: much may have changed meanwhile.
func (s *supervisor) prepare() (launch Launch, err error) {
	for waited := true; waited && s.ctx.Err() == nil; waited = !s.life.turn.was(launch.SharedGPUs) && s.awaitTurn(launch.SharedGPUs) {
		s.meanwhile(func() { launch, err = s.o.Prepare(s.ctx, s.o.Replica) })
		if err != nil {
			return launch, err
		}
	}
	return launch, s.ctx.Err()
}

// awaitTurn waits, until stoker stops, for replicas that load on the same GPUs, and reports whether there were any.
func (s *supervisor) awaitTurn(gpus string) (waited bool) {
	if gpus == "" || s.o.turns == nil {
		return false
	}
	s.endTurn()
	select {
	case <-s.o.turns.clear:
	default:
		waited = true
		s.meanwhile(func() { await(s.ctx, s.o.turns.clear) })
	}
	mine := s.o.turns.join(gpus, s.o.Replica)
	s.life.turn = mine
	for s.ctx.Err() == nil {
		loading := s.o.turns.current(gpus)
		if loading == mine {
			mine.stall = time.AfterFunc(s.o.LoadStall, mine.end)
			s.enter(Starting)
			return waited
		}
		waited = true
		s.state.Phase, s.state.Detail, s.state.PhaseSince = WaitPhase, fmt.Sprintf("for replica %d to load", loading.replica), time.Now()
		s.o.Logger.Info().Int("loading", loading.replica).Str("gpus", gpus).Msg("waits for another replica to load")
		s.meanwhile(func() { await(s.ctx, loading.over.Done()) })
	}
	return waited
}

// endTurn lets the next replica load.
func (s *supervisor) endTurn() {
	if s.life.turn != nil {
		s.life.turn.end()
	}
}

// isPermanent tells a command that cannot be run from a machine that cannot start any now.
func isPermanent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOEXEC) || errors.Is(err, syscall.ENOTDIR)
}

// bury ends a worker that is to be, or has, gone, takes the answers that it still gave, and says why it went.
func (s *supervisor) bury(p *process, cause error) error {
	s.pending = append(s.pending, Capacity{}) // before the requests that come back from here on
	s.state.Capacity = 0
	var grace time.Duration
	switch {
	case s.ctx.Err() != nil:
		p.out.Send(func(b []byte) []byte { return append(b, "{\"type\":\"stop\"}\n"...) })
		grace = stopTimeout
	case errors.Is(cause, errEnded):
		grace = exitTimeout
	}
	var e end
	s.meanwhile(func() { e = p.end(grace, s.abort) })
	s.life.process, s.state.PID = nil, 0
	if s.alone = e.err == nil; !s.alone {
		s.o.Logger.Error().Err(e.err).Msg("worker is not gone")
	}
	s.state.LogTail = p.tail.cause()
	cause = s.lastWords(e.rest, cause)
	s.takeShortage()
	return s.explain(cause, e)
}

// takeShortage keeps what a worker said of the memory that it did not get, and finds out who has it.
func (s *supervisor) takeShortage() {
	s.state.Shortage = nil
	if f := s.life.fatal; f != nil && f.Memory != nil && !f.Permanent {
		s.meanwhile(func() { f.Memory.Holders = findHolders(s.ctx, f.Memory.Device, s.life.env) })
		s.state.Shortage = f.Memory
	}
}

// lastWords takes what a worker said after it was given up. What it said of itself is the better cause.
func (s *supervisor) lastWords(rest replies, cause error) error {
	for i := range rest.messages {
		if m := &rest.messages[i]; m.Type == "ready" {
			m.Type = "" // it no longer is
		}
	}
	err := s.receive(rest)
	var permanent *PermanentError
	if errors.As(err, &permanent) {
		return permanent
	}
	return cause
}

// meanwhile runs something slow while callers are answered.
func (s *supervisor) meanwhile(slow func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		slow()
	}()
	s.attend(done)
}

// attend answers callers until done is closed, while there is no worker that could be fed.
func (s *supervisor) attend(done <-chan struct{}) {
	for {
		faults.Hang("engine")
		out, next := s.outgoing()
		select {
		case <-done:
			return
		case out <- next:
			s.pending = s.pending[1:]
		case requests := <-s.submit:
			s.giveBack(requests)
		case keys := <-s.cancel:
			s.forget(keys)
		case reply := <-s.status:
			reply <- s.snapshot()
		case reply := <-s.tree:
			reply <- s.life.tree()
		}
	}
}

// outgoing returns the channel to send the oldest pending event to, nil if there is none.
func (s *supervisor) outgoing() (chan<- Event, Event) {
	if len(s.pending) == 0 {
		return nil, nil
	}
	return s.events, s.pending[0]
}

func (s *supervisor) giveBack(requests []Request) {
	lost := Lost{Reason: "the engine is not ready"}
	for _, r := range requests {
		lost.Keys = append(lost.Keys, r.Key)
	}
	s.pending = append(s.pending, lost)
}

func (s *supervisor) forget(keys []Key) {
	for _, k := range keys {
		delete(s.inFlight, k)
	}
}

func (s *supervisor) snapshot() Status {
	st := s.state
	st.InFlight = len(s.inFlight)
	st.Phases = s.life.phases.at(time.Now(), s.life.last)
	if p := s.life.process; p != nil && st.State == Loading {
		st.LogTail = p.tail.cause()
	}
	return st
}
