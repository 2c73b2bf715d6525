package echo

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rehearsal is an echo engine in this process. Its pipes are in memory, so that a fake clock drives it.
type rehearsal struct {
	t       *testing.T
	in      io.WriteCloser
	out     *bufio.Scanner
	stopped chan error
}

func rehearse(t *testing.T, start string) *rehearsal {
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	r := &rehearsal{t: t, in: inW, out: bufio.NewScanner(outR), stopped: make(chan error, 1)}
	r.out.Buffer(nil, 1<<20)
	go func() {
		err := Run(inR, outW)
		outW.Close()
		inR.Close()
		r.stopped <- err
	}()
	r.say(start)
	return r
}

func (r *rehearsal) say(line string) {
	r.t.Helper()
	if _, err := io.WriteString(r.in, line+"\n"); err != nil {
		r.t.Fatal(err)
	}
}

// hear returns the next message of a type.
func (r *rehearsal) hear(kind string) string {
	r.t.Helper()
	for r.out.Scan() {
		if strings.HasPrefix(r.out.Text(), `{"type":"`+kind+`"`) {
			return r.out.Text()
		}
	}
	r.t.Fatalf("no %s: %v", kind, r.out.Err())
	return ""
}

// leave ends the requests, and checks that the engine ends.
func (r *rehearsal) leave() {
	r.t.Helper()
	r.in.Close()
	for r.out.Scan() {
	}
	if err := <-r.stopped; err != nil {
		r.t.Error(err)
	}
}

func TestAnswers(t *testing.T) {
	r := rehearse(t, `{"type":"start","model":"m","served_names":["a"],"args":{}}`)
	defer r.leave()
	for _, c := range []struct{ url, body, want string }{
		{"chat/completions", `{"messages":[{"role":"system","content":"be"},{"role":"user","content":"hi \"you\""}]}`, `"content":"hi \"you\""`},
		{"chat/completions", `{"messages":[{"content":[{"type":"text","text":"a"},{"type":"image_url"},{"type":"text","text":"b"}]}]}`, `"content":"ab"`},
		{"chat/completions", `{"messages":[{"content":"x y"}],"n":2}`, `"index":1,"message":{"role":"assistant","content":"x y"},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":4,"total_tokens":6}`},
		{"chat/completions", `{"prompt":"simple"}`, `"message":{"role":"assistant","content":"simple"}`},
		{"chat/completions", `{}`, `"content":""`},
		{"chat/completions", `{"messages":[{"content":"twice","content":"\ud800"}]}`, `"status":200`},
		{"completions", `{"prompt":"raw","raw":true}`, `"text":"raw"`},
		{"completions", `{"prompt":["a","b"]}`, `"text":"[\"a\",\"b\"]"`},
		{"completions", `{"prompt":"x","model":"a"}`, `"model":"m"`},
		{"completions", `{"prompt":"x","model":"m"}`, `"status":200`},
		{"completions", `{"prompt":"x","model":"b"}`, `"status":404`},
		{"completions", `{"prompt":"x","n":1000000000}`, `"status":400`},
		{"completions", `{"prompt":"x","n":"many"}`, `"status":400`},
		{"embeddings", `{"input":"x"}`, `"status":400`},
	} {
		r.say(fmt.Sprintf(`{"type":"request","key":9,"url":"/v1/%s","line":1,"body":%s}`, c.url, c.body))
		r.out.Scan()
		for strings.HasPrefix(r.out.Text(), `{"type":"hello"`) || strings.HasPrefix(r.out.Text(), `{"type":"ready"`) || strings.HasPrefix(r.out.Text(), `{"type":"stats"`) {
			r.out.Scan()
		}
		got := r.out.Text()
		var m request
		if err := json.Unmarshal([]byte(got), &m); err != nil || m.Key != 9 || !strings.Contains(got, c.want) {
			t.Errorf("%s %s:\n%s\nwant %s (%v)", c.url, c.body, got, c.want, err)
		}
	}
	r.say(`{"type":"ping","seq":17}`)
	if pong := r.hear("pong"); !strings.Contains(pong, "17") {
		t.Error(pong)
	}
}

// What a request leaves out comes from its defaults. An echo has use for the number of answers only.
func TestDefaults(t *testing.T) {
	r := rehearse(t, `{"type":"start","args":{}}`)
	defer r.leave()
	r.say(`{"type":"defaults","id":"b1","params":{"n":2,"temperature":0.5}}`)
	for body, want := range map[string]int{
		`"defaults":"b1","body":{"prompt":"x"}`:       2,
		`"defaults":"b1","body":{"prompt":"x","n":3}`: 3,
		`"body":{"prompt":"x"}`:                       1,
		`"defaults":"b2","body":{"prompt":"x"}`:       1,
	} {
		r.say(`{"type":"request","key":1,"url":"/v1/completions","form":"simple","line":1,` + body + `}`)
		if got := r.hear("result"); strings.Count(got, `"index":`) != want {
			t.Errorf("%s: want %d answers: %s", body, want, got)
		}
	}
}

func TestFailEvery(t *testing.T) {
	r := rehearse(t, `{"type":"start","args":{"fail_every":3}}`)
	defer r.leave()
	for line := 1; line <= 6; line++ {
		r.say(fmt.Sprintf(`{"type":"request","key":%d,"url":"/v1/completions","line":%d,"body":{"prompt":"x"}}`, line, line))
		kind := "result"
		if line%3 == 0 {
			kind = "error"
		}
		if got := r.hear(kind); !strings.Contains(got, fmt.Sprintf(`"key":%d,`, line)) {
			t.Errorf("line %d: %s", line, got)
		}
	}
}

// With a delay the engine works on its batch size at a time, and tells that it does.
func TestDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, `{"type":"start","args":{"delay":"10s"}}`)
		r.hear("ready")
		begin := time.Now()
		const n = sequences + 1
		go func() {
			for key := range n {
				r.say(fmt.Sprintf(`{"type":"request","key":%d,"url":"/v1/completions","line":1,"body":{"prompt":"x"}}`, key))
			}
		}()
		if got := r.hear("stats"); !strings.Contains(got, `"running":256,"waiting":1,`) || !strings.Contains(got, `"steps":1}`) {
			t.Error(got)
		}
		took := map[time.Duration]int{}
		for range n {
			r.hear("result")
			took[time.Since(begin)]++
		}
		if took[10*time.Second] != sequences || took[20*time.Second] != 1 {
			t.Errorf("answers took %v", took)
		}
		r.leave()
	})
}

// While it loads it answers pings, and leaves at once when it is told to.
func TestLoads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		r := rehearse(t, `{"type":"start","model":"m","args":{"load_delay":"10s"}}`)
		if got := r.hear("phase"); got != `{"type":"phase","phase":"loading","detail":"m"}` {
			t.Error(got)
		}
		r.say(`{"type":"ping","seq":1}`)
		r.hear("pong")
		if got := r.hear("ready"); time.Since(begin) != 10*time.Second || !strings.Contains(got, `"load_seconds":10}`) {
			t.Errorf("after %s: %s", time.Since(begin), got)
		}
		r.leave()
		begin = time.Now()
		r = rehearse(t, `{"type":"start","args":{"load_delay":"1h"}}`)
		r.hear("phase")
		r.leave()
		if d := time.Since(begin); d != 0 {
			t.Errorf("it left after %s", d)
		}
	})
}

func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rehearse(t, `{"type":"start","args":{"hang_on":"PIT"}}`)
		r.hear("ready")
		r.say(`{"type":"request","key":1,"url":"/v1/chat/completions","line":1,"body":{"messages":[{"content":"a PIT"},{"content":"x"}]}}`)
		r.say(`{"type":"request","key":2,"url":"/v1/completions","line":1,"body":{"prompt":"x"}}`)
		r.say(`{"type":"ping","seq":1}`)
		r.out.Scan()
		if got := r.out.Text(); got != `{"type":"pong","seq":1}` {
			t.Errorf("a hung engine says %s", got)
		}
		for range 3 {
			if got := r.hear("stats"); !strings.Contains(got, `"steps":0`) {
				t.Error(got)
			}
		}
		r.leave()
	})
}

func TestRefusesToStart(t *testing.T) {
	for _, args := range []string{`{"delay":1}`, `{"delay":"soon"}`, `{"crash_on":1}`, `{"unknown":1}`} {
		r := rehearse(t, `{"type":"start","args":`+args+`}`)
		if got := r.hear("fatal"); !strings.Contains(got, `"cause":"bad_argument","permanent":true`) {
			t.Error(got)
		}
		for r.out.Scan() {
		}
		if err := <-r.stopped; err == nil {
			t.Errorf("%s: ended without an error", args)
		}
	}
}

func TestStops(t *testing.T) {
	r := rehearse(t, `{"type":"start","args":{"delay":"1h"}}`)
	r.hear("ready")
	r.say(`{"type":"request","key":1,"url":"/v1/completions","line":1,"body":{"prompt":"x"}}`)
	r.say(`{"type":"stop"}`)
	for r.out.Scan() {
	}
	if err := <-r.stopped; err != nil {
		t.Error(err)
	}
}
