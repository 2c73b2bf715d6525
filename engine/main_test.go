package engine

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"stoker/engine/echo"
	"stoker/engine/processes"
)

// TestMain makes the test binary a rehearsal worker, too, as stoker's own is.
func TestMain(m *testing.M) {
	if ran, code := echo.Main(); ran {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// instance marks the processes of a test, so that tests do not kill each other's.
func instance(t *testing.T) string { return fmt.Sprintf("test-%d-%s", os.Getpid(), t.Name()) }

func options(t *testing.T, launch Launch) Options {
	return Options{
		Kind: "echo", Instance: instance(t), LogDir: t.TempDir(), LoadStall: time.Minute, Hang: time.Minute, Logger: zerolog.Nop(),
		Prepare: func(context.Context, int) (Launch, error) { return launch, nil },
	}
}

func rehearsal(args map[string]any) Launch {
	env := append(os.Environ(), "GORACE=atexit_sleep_ms=0") // else the race detector makes each exit last a second
	return Launch{Argv: []string{os.Args[0], echo.Command}, Env: env, ServedNames: []string{"*"}, Args: args}
}

// script is a worker made of a few lines of shell. It may use $hello and $ready, and serve, which
// leaves when it is told to.
func script(t *testing.T, body string) Launch {
	path := filepath.Join(t.TempDir(), "worker.sh")
	text := `hello='{"type":"hello","protocol":1,"engine":"script","version":"1"}'
ready='{"type":"ready","model":"m","max_num_seqs":8}'
serve() { grep -m1 '"type":"stop"' <&3 >/dev/null; }
` + body + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Launch{Argv: []string{"/bin/sh", path}, Env: os.Environ()}
}

// supervise starts a supervisor that the end of the test stops; then nothing of it may be alive.
func supervise(t *testing.T, o Options) *supervisor {
	s := newSupervisor(o)
	t.Cleanup(func() {
		s.Stop()
		if left := leftovers(t, o.marks()); len(left) > 0 {
			t.Errorf("processes %v are alive after Stop", left)
		}
	})
	return s
}

func leftovers(t *testing.T, marks processes.Marks) []processes.Process {
	t.Helper()
	left, err := marks.Leftovers(processes.Tree{})
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// lives reports whether a process lives.
func lives(pid int) bool {
	all, _ := processes.List(func(p processes.Stat) bool { return p.PID == pid && p.Lives() })
	return len(all) > 0
}

// limit is how long a test waits for what must happen; it is long because machines are busy.
const limit = 30 * time.Second

// next returns the next event.
func next(t *testing.T, s Engine) Event {
	t.Helper()
	select {
	case ev, open := <-s.Events():
		if !open {
			t.Fatal("events ended")
		}
		return ev
	case <-time.After(limit):
		t.Fatalf("no event; status %+v", s.Status())
	}
	return nil
}

// nextOf returns the next event, which must be of type E.
func nextOf[E Event](t *testing.T, s Engine) E {
	t.Helper()
	ev := next(t, s)
	e, ok := ev.(E)
	if !ok {
		t.Fatalf("got %#v, want %T; status %+v", ev, e, s.Status())
	}
	return e
}

// ready waits until the engine takes requests.
func ready(t *testing.T, s Engine) Capacity {
	t.Helper()
	for {
		if c := nextOf[Capacity](t, s); c.InFlight > 0 {
			return c
		}
	}
}

// answers returns the next n answers by key.
func answers(t *testing.T, s Engine, n int) map[Key]Answer {
	t.Helper()
	got := map[Key]Answer{}
	for len(got) < n {
		for _, a := range nextOf[Answers](t, s) {
			got[a.Key] = a
		}
	}
	return got
}

// waitFor waits until the engine is in a state.
func waitFor(t *testing.T, s Engine, state State) Status {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(5 * time.Millisecond) {
		st := s.Status()
		if st.State == state {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("the engine is not %s: %+v", state, st)
		}
	}
}

func chat(key Key, text string) Request {
	return Request{Key: key, Line: int64(key), URL: "/v1/chat/completions", Body: fmt.Appendf(nil, `{"messages":[{"role":"user","content":%q}]}`, text)}
}
