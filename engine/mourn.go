package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	// minBackOff and maxBackOff bound the pause before another start; it doubles while workers die before they have work.
	minBackOff = time.Second
	maxBackOff = 5 * time.Minute
	// maxMemoryWait bounds it for workers that find too little memory: it may be free at any moment, and a start that
	// fails so costs little.
	maxMemoryWait = time.Minute
	// quickRestart is the pause after a worker that was at work: isolating a poison request takes several deaths.
	quickRestart = 100 * time.Millisecond
)

// oomHint is what to do about a worker that the kernel killed.
const oomHint = "stop what else uses memory, or let the engine use less: kv_cache_memory_bytes and max_num_seqs in [engine.args]"

// sharedHint is what can be done besides about a worker that finds too little memory, if others have the same GPUs.
const sharedHint = "replicas share this GPU's memory: with fewer of them (engine.replicas) each has more"

// explain makes one error of why a worker ended: what it said itself, else what was wrong with it, else how it ended.
func (s *supervisor) explain(cause error, e end) error {
	s.state.Hint = ""
	var permanent *PermanentError
	fatal := s.life.fatal
	switch {
	case errors.As(cause, &permanent):
		return permanent
	case fatal != nil && fatal.Permanent:
		return &PermanentError{Message: fatal.Message, Hint: fatal.Hint}
	case fatal != nil:
		s.state.Hint = fatal.Hint
		if fatal.Cause == memoryCause && s.life.turn != nil {
			s.state.Hint += "; " + sharedHint
		}
		if s.state.Shortage != nil {
			return errors.New(s.state.Shortage.String())
		}
		return errors.New(s.accuse(fatal.Message, fatal.Signal))
	case !errors.Is(cause, errEnded) || !e.byItself:
		return cause
	case !s.life.greeted && signalOf(e.exit) == 0:
		// Dead before its first word: the script itself does not run there.
		return &PermanentError{
			Message: fmt.Sprintf("the worker ended before it could say hello (%s): %s", exitText(e.exit), strings.Join(s.state.LogTail, " | ")),
			Hint:    "look at worker.log in the state folder",
		}
	}
	return fmt.Errorf("the worker ended: %s", s.accuse(exitText(e.exit), signalOf(e.exit)))
}

// accuse adds to an account of a death by SIGKILL who did it, as far as that is known.
func (s *supervisor) accuse(account string, by syscall.Signal) string {
	switch {
	case by != syscall.SIGKILL:
		return account
	case s.o.Cgroup.OOMKills() > s.life.oomKills:
		s.state.Hint = oomHint
		return account + ": the kernel killed it because memory ran out"
	}
	return account + " (by a person, or by the kernel because memory ran out)"
}

// mourn reports what a worker's end cost, and decides when the next one starts.
func (s *supervisor) mourn(err error) {
	if len(s.inFlight) > 0 {
		keys := slices.Sorted(maps.Keys(s.inFlight))
		clear(s.inFlight)
		s.pending = append(s.pending, Lost{Keys: keys, Blamed: true, Reason: err.Error()})
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
	pause := s.nextPause()
	s.enter(BackOff)
	s.state.RetryAt = time.Now().Add(pause)
	s.o.Logger.Warn().Str("reason", s.state.Reason).Strs("log", s.state.LogTail).Float64("retry_seconds", pause.Seconds()).Msg("engine died")
}

// nextPause decides how long to wait before the next start. It is random, so that machines that share a cause do not
// share the load of all trying again.
func (s *supervisor) nextPause() time.Duration {
	ready := s.state.State == Ready
	if ready && (s.life.fed || time.Since(s.state.Since) > maxBackOff) {
		s.backOff = 0
	}
	if ready && s.life.fed {
		return quickRestart
	}
	limit := maxBackOff
	if s.state.Shortage != nil {
		limit = maxMemoryWait
	}
	s.backOff = min(max(2*s.backOff, minBackOff), limit)
	return s.backOff/2 + rand.N(s.backOff/2+1)
}

// pause waits until the next start, for ever after a permanent failure.
func (s *supervisor) pause() {
	ctx := s.ctx
	if s.state.State == BackOff {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, s.state.RetryAt)
		defer cancel()
	}
	s.attend(ctx.Done())
}
