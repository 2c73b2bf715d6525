package line

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"stoker/daemon/dispatch"
	"stoker/daemon/inbox"
	"stoker/daemon/outbox"
	"stoker/engine"
	"stoker/engine/echo"
	"stoker/store"
)

// TestMain makes the test binary an echo worker, too, as stoker's own is.
func TestMain(m *testing.M) {
	if ran, code := echo.Main(); ran {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// BenchmarkLines takes a file of b.N lines of 300 bytes from the inbox to synced results in the outbox and the input in
// the archive; with -benchtime 1000000x it is a file of a million. It tells the time and the processor time of each
// stage, which are this process's, what the worker used, and the most memory that this process had by then. in-process
// answers without a pipe and a worker. The echo engine wants 320 requests in flight unless it is configured otherwise.
func BenchmarkLines(b *testing.B) {
	for _, inFlight := range []int{320, 2048} {
		b.Run(fmt.Sprintf("engine=worker/in-flight=%d", inFlight), func(b *testing.B) {
			benchLines(b, func() (dispatch.Engine, func()) { return startWorker(b, inFlight) })
		})
	}
	b.Run("engine=in-process/in-flight=320", func(b *testing.B) { benchLines(b, startInstant) })
}

func benchLines(b *testing.B, start func() (e dispatch.Engine, stop func())) {
	dir := b.TempDir()
	for _, name := range []string{"inbox", "outbox", "archive"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			b.Fatal(err)
		}
	}
	drop := filepath.Join(dir, "x.jsonl")
	writeLines(b, drop, b.N)
	b.SetBytes(lineBytes)
	s, err := store.Open(filepath.Join(dir, "state"))
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	e, stopEngine := start()
	stages := newStages()
	l := New(lineOptions(dir, s, e, zerolog.New(nil).Hook(stages)))
	if err := l.Start(); err != nil {
		b.Fatal(err)
	}
	<-l.Inbox.Looked()
	b.ResetTimer()
	stages.reach("")
	if err := os.Rename(drop, filepath.Join(dir, "inbox", "x.jsonl")); err != nil {
		b.Fatal(err)
	}
	select {
	case <-stages.over:
	case err := <-l.Failed():
		b.Fatal(err)
	}
	b.StopTimer()
	if err := l.Stop(0, nil, stopEngine); err != nil {
		b.Fatal(err)
	}
	stages.report(b)
}

func lineOptions(dir string, s *store.Store, e dispatch.Engine, logger zerolog.Logger) Options {
	in := filepath.Join(dir, "inbox")
	return Options{
		Store: s, Engine: e, EngineKind: "echo", Logger: logger,
		Inbox: inbox.Options{
			Settings: inbox.Settings{
				Ready: inbox.ReadyRename, MaxLine: 16 << 20, Rescan: time.Second, PollEvery: time.Second,
				Defaults: func(string) map[string]any { return nil },
			},
			Dir: in, Archive: filepath.Join(dir, "archive"), Logger: logger,
			Watch: func() inbox.Watcher { return inbox.NewWatcher(in, logger) },
		},
		Outbox: outbox.Options{
			Settings: outbox.Settings{InputOrder: true, Mode: 0o664, Group: -1}, Dir: filepath.Join(dir, "outbox"), Logger: logger,
		},
	}
}

// lineBytes is how long a line is, with its end.
const lineBytes = 300

func writeLines(b *testing.B, path string, n int) {
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	for i := range n {
		line := fmt.Sprintf(`{"custom_id":"request-%d","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"`, i)
		const end = `"}],"max_tokens":128}}` + "\n"
		text := strings.Repeat("the quick brown fox jumps over the lazy dog ", 7)
		w.WriteString(line + text[:lineBytes-len(line)-len(end)] + end)
	}
	if err := w.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
}

// startWorker starts the echo worker as the daemon does.
func startWorker(b *testing.B, inFlight int) (dispatch.Engine, func()) {
	launch := engine.Launch{Argv: []string{os.Args[0], echo.Command}, Env: os.Environ(), ServedNames: []string{"*"}}
	s, err := engine.Start(engine.Options{
		Kind: "echo", Instance: "bench-" + strconv.Itoa(os.Getpid()), LogDir: b.TempDir(), LoadStall: time.Minute, Hang: time.Minute, InFlight: inFlight, Logger: zerolog.Nop(),
		Prepare: func(context.Context, int) (engine.Launch, error) { return launch, nil },
	}, 1)
	if err != nil {
		b.Fatal(err)
	}
	for s.Status().State != engine.Ready {
		time.Sleep(time.Millisecond)
	}
	return s, s.Stop
}

// instant answers at once, always the same.
type instant struct{ events chan engine.Event }

const instantAnswer = `{"id":"echo-1","object":"chat.completion","created":1790000000,"model":"echo","choices":[{"index":0,"message":{"role":"assistant",` +
	`"content":"the quick brown fox jumps over the lazy dog the quick brown fox jumps over the lazy dog the quick brown fox jumps over the lazy dog"},` +
	`"finish_reason":"stop"}],"usage":{"prompt_tokens":27,"completion_tokens":27,"total_tokens":54}}`

func startInstant() (dispatch.Engine, func()) {
	e := &instant{events: make(chan engine.Event, 1<<10)}
	e.events <- engine.Capacity{InFlight: 320, Model: "echo", Version: "1"}
	return e, func() { close(e.events) }
}

func (e *instant) Events() <-chan engine.Event { return e.events }

func (e *instant) Submit(requests []engine.Request) {
	answers := make(engine.Answers, len(requests))
	for i, r := range requests {
		answers[i] = engine.Answer{Key: r.Key, Status: 200, Body: []byte(instantAnswer)}
	}
	e.events <- answers // at most the capacity is in flight: there is space
}

// stages takes down when a batch gets how far, which its rooms log, and what it cost until then.
type stages struct {
	mu   sync.Mutex
	last map[string]mark // by message; of several the last
	over chan struct{}
}

type mark struct {
	at          time.Time
	cpu, worker time.Duration // worker's counts once it has ended
}

func newStages() *stages { return &stages{last: map[string]mark{}, over: make(chan struct{})} }

// Run implements zerolog.Hook.
func (s *stages) Run(_ *zerolog.Event, _ zerolog.Level, message string) {
	s.reach(message)
	if message == "input is archived" {
		close(s.over)
	}
}

func (s *stages) reach(stage string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last[stage] = mark{time.Now(), cpu(unix.RUSAGE_SELF), cpu(unix.RUSAGE_CHILDREN)}
}

func (s *stages) report(b *testing.B) {
	from := s.last[""]
	worker := cpu(unix.RUSAGE_CHILDREN) - from.worker
	for _, stage := range []struct{ message, name string }{
		{"batch is open", "admit"}, {"records are durable", "answer"}, {"batch has ended", "publish"},
	} {
		m := s.last[stage.message]
		b.ReportMetric(m.at.Sub(from.at).Seconds(), stage.name+"-s")
		b.ReportMetric(float64((m.cpu-from.cpu).Nanoseconds())/1e3/float64(b.N), stage.name+"-cpu-µs/line")
		from = m
	}
	b.ReportMetric(float64(worker.Nanoseconds())/1e3/float64(b.N), "worker-cpu-µs/line")
	b.ReportMetric(float64(usage(unix.RUSAGE_SELF).Maxrss)/1024, "rss-MiB")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
	b.ReportMetric(0, "ns/op")
}

// cpu is the processor time of this process, or of its children that have ended.
func cpu(who int) time.Duration {
	u := usage(who)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func usage(who int) (u unix.Rusage) {
	unix.Getrusage(who, &u) // it knows both
	return u
}
