package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeHost answers every request at once, and notes what it was told.
type fakeHost struct {
	name   string
	told   *[]string
	failed int64
	short  bool // one answer is missing
	broken error
	counts map[string]int64 // requests by file
}

func (f *fakeHost) start(context.Context) (Loaded, error) {
	*f.told = append(*f.told, f.name+" start")
	return Loaded{Seconds: 1}, f.broken
}

func (f *fakeHost) run(_ context.Context, way string, files []string) (Sample, error) {
	var n int64
	warm := ""
	for _, path := range files {
		n += f.counts[path]
		if strings.Contains(path, "warm-up") {
			warm = " warm-up"
		}
	}
	*f.told = append(*f.told, fmt.Sprintf("%s%s %d files", way, warm, len(files)))
	if f.short {
		n--
	}
	return Sample{Seconds: 1, Requests: n, Failed: f.failed, Tokens: 10}, nil
}

func (f *fakeHost) stop() { *f.told = append(*f.told, f.name+" stop") }

// trace runs a benchmark on fake hosts and returns what they were told.
func trace(t *testing.T, o Options, spoil func(*fakeHost)) (told []string, series []*Series, err error) {
	t.Helper()
	o.Dir, o.Say = t.TempDir(), func(string, ...any) {}
	r := newRunner(o)
	r.makeHost = func(name, _ string) (host, error) {
		h := &fakeHost{name: name, told: &told, counts: map[string]int64{}}
		for _, s := range r.Scenarios {
			l := r.loads[s.Name]
			for i, f := range take(s.Load.files(), r.Part) {
				h.counts[l.files[i]] = int64(len(f))
			}
		}
		if spoil != nil {
			spoil(h)
		}
		return h, nil
	}
	series, err = r.all(t.Context())
	return told, series, err
}

func small(name string, ways ...string) Scenario {
	return Scenario{Name: name, Ways: ways, Load: Load{Requests: 4, Files: 2, MeanTokens: 10, MaxTokens: 20, PromptWords: 2}}
}

// Every process is loaded once a pass, warmed up before it is timed, and ended before the next; ways that share one take turns,
// and the second pass goes the other way round.
func TestOrder(t *testing.T) {
	told, series, err := trace(t, Options{
		Scenarios: []Scenario{small("a", "stoker", "llm-chat", "llm-chat-files"), small("b", "stoker")}, Rounds: 2, Passes: 2, WarmUp: 5,
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	stoker := []string{"stoker start", "stoker warm-up 2 files", "stoker 2 files", "stoker 2 files", "stoker warm-up 2 files", "stoker 2 files", "stoker 2 files", "stoker stop"}
	want := slices.Concat(stoker,
		[]string{"llm start", "llm-chat warm-up 2 files", "llm-chat 2 files", "llm-chat-files 2 files", "llm-chat-files 2 files", "llm-chat 2 files", "llm stop"},
		[]string{"llm start", "llm-chat warm-up 2 files", "llm-chat-files 2 files", "llm-chat 2 files", "llm-chat 2 files", "llm-chat-files 2 files", "llm stop"},
		stoker)
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, s := range series {
		if len(s.Rounds) != 4 {
			t.Errorf("%s, %s has %d rounds", s.Scenario.Name, s.Way, len(s.Rounds))
		}
	}
}

// Where starts count, a script starts for each file and stoker once for all.
func TestStarts(t *testing.T) {
	s := small("a", "stoker", "llm-chat-files")
	s.Starts = true
	told, series, err := trace(t, Options{Scenarios: []Scenario{s}, Rounds: 1, Passes: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"stoker start", "stoker 2 files", "stoker stop",
		"llm start", "llm-chat-files 1 files", "llm stop", "llm start", "llm-chat-files 1 files", "llm stop",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := series[1].Rounds[0]; len(got.Starts) != 2 || got.Requests != 4 {
		t.Errorf("the script's round is %+v", got)
	}
}

func TestPart(t *testing.T) {
	told, series, err := trace(t, Options{Scenarios: []Scenario{small("a", "stoker")}, Rounds: 1, Passes: 1, Part: Part{2, 2}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"stoker start", "stoker 1 files", "stoker stop"}; !slices.Equal(told, want) || series[0].Requests != 2 {
		t.Errorf("told %v, of %d requests", told, series[0].Requests)
	}
}

// Replicas are stoker's: its rows alone tell of them.
func TestReplicas(t *testing.T) {
	o := Options{Scenarios: []Scenario{small("a", "stoker", "handlers")}, Rounds: 1, Passes: 1, Replicas: 2}
	_, series, err := trace(t, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{", replicas = 2", ""} {
		if got := series[i].conditions(); got != want {
			t.Errorf("%s ran with %q, want %q", series[i].Way, got, want)
		}
	}
}

// A way that fails requests, or leaves some out, measures nothing; its process ends, it is not tried again, and others go on.
func TestFailures(t *testing.T) {
	for name, spoil := range map[string]func(*fakeHost){
		"failed":  func(h *fakeHost) { h.failed = 1 },
		"missing": func(h *fakeHost) { h.short = true },
		"broken":  func(h *fakeHost) { h.broken = errors.New("no engine") },
	} {
		told, series, err := trace(t, Options{Scenarios: []Scenario{small("a", "stoker", "handlers")}, Rounds: 2, Passes: 2}, func(h *fakeHost) {
			if h.name == "stoker" {
				spoil(h)
			}
		})
		if err == nil || len(series[0].Rounds) != 0 || len(series[1].Rounds) != 4 {
			t.Errorf("%s: %v, with %d and %d rounds", name, err, len(series[0].Rounds), len(series[1].Rounds))
		}
		starts, stops := 0, 0
		for _, what := range told {
			if what == "stoker start" {
				starts++
			}
			if what == "stoker stop" {
				stops++
			}
		}
		if starts != 1 || stops != 1 {
			t.Errorf("%s: told %v", name, told)
		}
	}
}

func TestRefusesWays(t *testing.T) {
	for _, c := range []struct {
		echo bool
		way  string
	}{{false, "echo-loop"}, {true, "llm-chat"}, {false, "nothing"}, {true, "server"}} {
		if _, _, err := trace(t, Options{Scenarios: []Scenario{small("a", c.way)}, Rounds: 1, Passes: 1, Echo: c.echo}, nil); err == nil {
			t.Errorf("%s, echo %t: accepted", c.way, c.echo)
		}
	}
}

func TestSettings(t *testing.T) {
	settings := map[string]any{"max_num_seqs": 512, "async_scheduling": true, "kv_cache_dtype": "fp8"}
	if got, want := settingsText(settings), `async_scheduling = true, kv_cache_dtype = "fp8", max_num_seqs = 512`; got != want {
		t.Errorf("got %s, not %s", got, want)
	}
	env, err := settingsEnv(settings)
	want := []string{"STOKER_ENGINE__ARGS__ASYNC_SCHEDULING=true", `STOKER_ENGINE__ARGS__KV_CACHE_DTYPE="fp8"`, "STOKER_ENGINE__ARGS__MAX_NUM_SEQS=512"}
	if diff := cmp.Diff(want, env); err != nil || diff != "" {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
}
