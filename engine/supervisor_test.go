package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"stoker/engine/processes"
)

func TestAnswers(t *testing.T) {
	s := supervise(t, options(t, rehearsal(map[string]any{"fail_every": 3})))
	c := ready(t, s)
	if want := (Capacity{InFlight: 320, Model: "echo", Version: "1"}); c != want {
		t.Errorf("capacity is %+v, want %+v", c, want)
	}
	s.Submit([]Request{chat(1, "one"), chat(2, "two"), chat(3, "three")})
	got := answers(t, s, 3)
	for key, want := range map[Key]string{1: `"content":"one"`, 2: `"content":"two"`, 3: `line 3 fails`} {
		if !strings.Contains(string(got[key].Body), want) {
			t.Errorf("answer %d is %s, want %s in it", key, got[key].Body, want)
		}
	}
	if got[1].Status != 200 || got[3].Status != 500 {
		t.Errorf("statuses are %d and %d, want 200 and 500", got[1].Status, got[3].Status)
	}
	if st := s.Status(); st.State != Ready || st.InFlight != 0 || st.PID == 0 || st.Capacity != 320 {
		t.Errorf("status is %+v", st)
	}
}

func TestInFlightIsConfigured(t *testing.T) {
	o := options(t, rehearsal(nil))
	o.InFlight = 7
	if c := ready(t, supervise(t, o)); c.InFlight != 7 {
		t.Errorf("capacity is %d, want 7", c.InFlight)
	}
}

// A worker that dies costs what it held, no more: the answers that it gave are answers.
func TestDeathBlamesTheUnanswered(t *testing.T) {
	s := supervise(t, options(t, rehearsal(map[string]any{"crash_on": "POISON"})))
	ready(t, s)
	s.Submit([]Request{chat(1, "fine")})
	answers(t, s, 1)
	s.Submit([]Request{chat(4, "a POISON"), chat(5, "behind it")})
	if c := nextOf[Capacity](t, s); c.InFlight != 0 {
		t.Errorf("capacity of a dead engine is %d", c.InFlight)
	}
	lost := nextOf[Lost](t, s)
	if diff := cmp.Diff(Lost{Keys: []Key{4, 5}, Blamed: true, Reason: lost.Reason}, lost); diff != "" {
		t.Errorf("lost (-want +got):\n%s", diff)
	}
	if !strings.Contains(lost.Reason, "SIGKILL") {
		t.Errorf("reason %q does not say how it died", lost.Reason)
	}
	ready(t, s)
	s.Submit([]Request{chat(6, "again")})
	answers(t, s, 1)
	if n := s.Status().Restarts; n != 1 {
		t.Errorf("%d restarts, want 1", n)
	}
}

func TestKilledFromOutside(t *testing.T) {
	s := supervise(t, options(t, rehearsal(map[string]any{"delay": "1h"})))
	ready(t, s)
	s.Submit([]Request{chat(1, "x")})
	syscall.Kill(s.Status().PID, syscall.SIGKILL)
	nextOf[Capacity](t, s)
	if lost := nextOf[Lost](t, s); !lost.Blamed || len(lost.Keys) != 1 {
		t.Errorf("lost %+v", lost)
	}
	ready(t, s)
}

// What a worker says in the same breath as its last words counts.
func TestAnswersBeforeDeath(t *testing.T) {
	for name, last := range map[string]string{
		"fatal":   `{"type":"fatal","cause":"engine_dead","message":"gone"}`,
		"garbage": `this is no JSON`,
		"exit":    ``,
	} {
		t.Run(name, func(t *testing.T) {
			s := supervise(t, options(t, script(t, `echo "$hello" >&4; echo "$ready" >&4
grep -q '"key":2' <&3
printf '%s\n%s\n' '{"type":"result","key":1,"status":200,"body":{"a":1}}' '`+last+`' >&4
exit 1`)))
			ready(t, s)
			s.Submit([]Request{chat(1, "a"), chat(2, "b")})
			got := map[Key]bool{}
			for {
				switch ev := next(t, s).(type) {
				case Answers:
					for _, a := range ev {
						got[a.Key] = true
					}
				case Lost:
					if !got[1] || !slices.Equal(ev.Keys, []Key{2}) || !ev.Blamed {
						t.Errorf("answered %v, lost %+v; want 1 answered and 2 lost", got, ev)
					}
					return
				}
			}
		})
	}
}

func TestSubmitWithoutEngine(t *testing.T) {
	s := supervise(t, options(t, script(t, `echo "$hello" >&4; serve`)))
	waitFor(t, s, Loading)
	s.Submit([]Request{chat(1, "x"), chat(2, "y")})
	lost := nextOf[Lost](t, s)
	if lost.Blamed || !slices.Equal(lost.Keys, []Key{1, 2}) {
		t.Errorf("lost %+v, want 1 and 2, not blamed", lost)
	}
}

func TestCancelForgets(t *testing.T) {
	s := supervise(t, options(t, rehearsal(map[string]any{"delay": "50ms"})))
	ready(t, s)
	s.Submit([]Request{chat(1, "x"), chat(2, "y")})
	s.Cancel([]Key{1})
	if got := answers(t, s, 1); got[2].Status != 200 {
		t.Errorf("got %v, want the answer to 2 only", got)
	}
}

// Requests that nobody reads fill the pipe; the worker's death must free whoever writes to it.
func TestDeathWithFullPipe(t *testing.T) {
	s := supervise(t, options(t, script(t, `echo "$hello" >&4; echo "$ready" >&4; head -c 4000 <&3 >/dev/null; sleep 0.2; exit 3`)))
	ready(t, s)
	s.Submit([]Request{chat(1, strings.Repeat("x", 4<<20))})
	nextOf[Capacity](t, s)
	if lost := nextOf[Lost](t, s); !strings.Contains(lost.Reason, "exit status 3") {
		t.Errorf("reason is %q", lost.Reason)
	}
}

func TestPermanentFailures(t *testing.T) {
	notExecutable := filepath.Join(t.TempDir(), "python")
	if err := os.WriteFile(notExecutable, []byte("\x00no program"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		launch Launch
		reason string
	}{
		"no interpreter":     {Launch{Argv: []string{"/nowhere/python"}}, "/nowhere/python: no such file"},
		"no program":         {Launch{Argv: []string{notExecutable}}, "exec format error"},
		"dead before hello":  {script(t, `echo "ModuleNotFoundError: No module named 'vllm'" >&2; exit 1`), "No module named 'vllm'"},
		"other protocol":     {script(t, `echo '{"type":"hello","protocol":2}' >&4; sleep 60`), "protocol 2"},
		"other and gone":     {script(t, `echo '{"type":"hello","protocol":2}' >&4; exit 1`), "protocol 2"},
		"fatal, permanent":   {script(t, `echo "$hello" >&4; echo '{"type":"fatal","cause":"bad_argument","permanent":true,"message":"no such thing"}' >&4; exit 1`), "no such thing"},
		"echo, bad argument": {rehearsal(map[string]any{"dealy": "1s"}), "dealy"},
		"bad arguments":      {Launch{Argv: []string{"/bin/true"}, Args: map[string]any{"x": func() {}}}, "encode engine arguments"},
	} {
		t.Run(name, func(t *testing.T) {
			s := supervise(t, options(t, c.launch))
			st := waitFor(t, s, Failed)
			if !strings.Contains(st.Reason, c.reason) || st.Restarts != 0 {
				t.Errorf("failed with %q after %d restarts, want %q in it and none", st.Reason, st.Restarts, c.reason)
			}
		})
	}
}

func TestRetriedFailures(t *testing.T) {
	for name, c := range map[string]struct {
		launch Launch
		reason string
	}{
		"killed before hello": {script(t, `kill -9 $$`), "SIGKILL"},
		"fatal, not for good": {script(t, `echo "$hello" >&4; echo '{"type":"fatal","cause":"gpu_memory","message":"held by 17"}' >&4; exit 1`), "held by 17"},
		"dies while loading":  {script(t, `echo "$hello" >&4; exit 7`), "exit status 7"},
		"closes its replies":  {script(t, `echo "$hello" >&4; exec 4>&-; sleep 60`), "closed its replies"},
	} {
		t.Run(name, func(t *testing.T) {
			s := supervise(t, options(t, c.launch))
			st := waitFor(t, s, BackOff)
			if !strings.Contains(st.Reason, c.reason) || st.RetryAt.IsZero() {
				t.Errorf("backs off until %s for %q, want %q in it", st.RetryAt, st.Reason, c.reason)
			}
		})
	}
}

func TestPrepareFails(t *testing.T) {
	for want, err := range map[State]error{BackOff: errors.New("busy"), Failed: &PermanentError{Message: "wrong", Hint: "mend it"}} {
		o := options(t, Launch{})
		o.Prepare = func(context.Context, int) (Launch, error) { return Launch{}, err }
		if st := waitFor(t, supervise(t, o), want); st.Reason != err.Error() {
			t.Errorf("reason is %q, want %q", st.Reason, err)
		}
	}
}

// Finding an interpreter may take seconds; callers are answered meanwhile, and Stop does not wait for it.
func TestSlowPrepare(t *testing.T) {
	o := options(t, Launch{})
	o.Prepare = func(ctx context.Context, _ int) (Launch, error) {
		<-ctx.Done()
		return Launch{}, ctx.Err()
	}
	s := supervise(t, o)
	waitFor(t, s, Starting)
	s.Submit([]Request{chat(1, "x")})
	if lost := nextOf[Lost](t, s); lost.Blamed {
		t.Errorf("lost %+v, want it not blamed", lost)
	}
	s.Stop()
	if st := s.Status().State; st != Stopped {
		t.Errorf("state is %s after Stop", st)
	}
}

func TestHang(t *testing.T) {
	o := options(t, rehearsal(map[string]any{"hang_on": "TAR PIT"}))
	o.Hang = 200 * time.Millisecond
	s := supervise(t, o)
	ready(t, s)
	time.Sleep(2 * o.Hang) // idle is no hang
	s.Submit([]Request{chat(1, "a TAR PIT"), chat(2, "behind")})
	nextOf[Capacity](t, s)
	lost := nextOf[Lost](t, s)
	if !lost.Blamed || !slices.Equal(lost.Keys, []Key{1, 2}) || !strings.Contains(lost.Reason, "engine.hang") || strings.Contains(lost.Reason, "person") {
		t.Errorf("lost %+v, want both, for a hang", lost)
	}
	ready(t, s)
}

// A worker that somebody stopped dies like another, and what it held runs again.
func TestStoppedWorker(t *testing.T) {
	o := options(t, rehearsal(map[string]any{"delay": "1h"}))
	o.Hang = 200 * time.Millisecond
	s := supervise(t, o)
	ready(t, s)
	pid := s.Status().PID
	syscall.Kill(pid, syscall.SIGSTOP)
	s.Submit([]Request{chat(1, "x")})
	nextOf[Capacity](t, s)
	if lost := nextOf[Lost](t, s); !lost.Blamed || !strings.Contains(lost.Reason, "engine.hang") {
		t.Errorf("lost %+v, want it lost to a hang", lost)
	}
	if lives(pid) {
		t.Error("the stopped worker is alive")
	}
	ready(t, s)
}

func TestStoppedWhileLoading(t *testing.T) {
	o := options(t, script(t, `echo "$hello" >&4; kill -STOP $$`))
	o.LoadStall = 200 * time.Millisecond
	if st := waitFor(t, supervise(t, o), BackOff); !strings.Contains(st.Reason, "engine.load_stall") {
		t.Errorf("reason is %q", st.Reason)
	}
}

func TestLoadStall(t *testing.T) {
	o := options(t, script(t, `echo "$hello" >&4; serve`))
	o.LoadStall = 200 * time.Millisecond
	if st := waitFor(t, supervise(t, o), BackOff); !strings.Contains(st.Reason, "engine.load_stall") {
		t.Errorf("reason is %q", st.Reason)
	}
}

// A progress bar without line ends is progress.
func TestOutputIsProgressWhileLoading(t *testing.T) {
	o := options(t, script(t, `echo "$hello" >&4
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do printf 'loading %d\r' $i; sleep 0.1; done
echo "$ready" >&4; serve`))
	o.LoadStall = time.Second
	ready(t, supervise(t, o))
}

func TestFloodOfOutput(t *testing.T) {
	o := options(t, script(t, `echo "$hello" >&4; head -c 40000000 /dev/zero | tr '\0' '\n' ; echo "$ready" >&4; serve`))
	ready(t, supervise(t, o))
	var size int64
	for _, name := range []string{"worker.log", "worker.log.1"} {
		st, err := os.Stat(filepath.Join(o.LogDir, name))
		if err != nil {
			t.Fatal(err)
		}
		size += st.Size()
	}
	if size > 2*logLimit {
		t.Errorf("the logs hold %d bytes, want at most %d", size, 2*logLimit)
	}
}

func TestStopWhileBackingOff(t *testing.T) {
	s := supervise(t, options(t, script(t, `echo "$hello" >&4; exit 1`)))
	waitFor(t, s, BackOff)
	s.Stop()
	s.Stop()
	s.Submit([]Request{chat(1, "x")}) // nobody is there to lose it, and nothing blocks
	s.Cancel([]Key{1})
	for range s.Events() {
	}
}

func TestStopIsPolite(t *testing.T) {
	file := filepath.Join(t.TempDir(), "said")
	s := supervise(t, options(t, script(t, `echo "$hello" >&4; echo "$ready" >&4; grep -m1 stop <&3 > `+file)))
	ready(t, s)
	s.Stop()
	if said, err := os.ReadFile(file); err != nil || !strings.Contains(string(said), `"stop"`) {
		t.Errorf("the worker was told %q: %v", said, err)
	}
}

// Kill does not wait for a worker that takes its time to leave, also if Stop waits for it already.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	told, left := filepath.Join(dir, "told"), filepath.Join(dir, "left")
	s := supervise(t, options(t, script(t, `echo "$hello" >&4; echo "$ready" >&4; serve; touch `+told+`; sleep 5; touch `+left)))
	ready(t, s)
	go s.Stop()
	for end := time.Now().Add(limit); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(told); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the worker is not told to leave")
		}
	}
	s.Kill()
	s.Kill()
	if _, err := os.Stat(left); err == nil {
		t.Error("the worker left when it wanted to")
	}
	if st := s.Status().State; st != Stopped {
		t.Errorf("state is %s after Kill", st)
	}
}

func TestStartLeaksNoFiles(t *testing.T) {
	log, err := openLog(filepath.Join(t.TempDir(), "worker.log"), logLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	count := func() int {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(fds)
	}
	before := count()
	for range 20 {
		if _, err := startProcess(Launch{Argv: []string{"/nowhere/python"}}, processes.Marks{Instance: "x"}, log); !isPermanent(err) {
			t.Fatalf("got %v, want a permanent error", err)
		}
	}
	if after := count(); after > before+5 { // others may come and go
		t.Errorf("%d files are open, before it were %d", after, before)
	}
}
