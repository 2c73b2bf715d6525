package bench

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func someReport(scenario string, rates map[string][]float64) *Report {
	r := &Report{
		SchemaVersion: SchemaVersion, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Version: "1", Machine: Machine{CPU: "a CPU", Cores: 2, Load: "0.5"},
		Engine: Engine{Kind: "vllm", Version: "0.32.0", Model: "m", Args: map[string]any{"max_num_seqs": int64(64)}},
	}
	for _, way := range []string{"stoker", "llm-chat", "serve"} {
		s := &Series{
			Scenario: Scenario{Name: scenario, Load: gpuLoad(1000, 1)}, Way: way, Requests: 1000, Tokens: 3000,
			Loads: []Loaded{{Seconds: 30, MaxNumSeqs: 64}},
		}
		for _, rate := range rates[way] {
			s.Rounds = append(s.Rounds, Sample{Seconds: 3000 / rate, Requests: 1000, Tokens: 3000, CPU: CPU{Stoker: 0.25, Front: 2}})
		}
		r.Series = append(r.Series, s)
	}
	return r
}

func TestTable(t *testing.T) {
	r := someReport("one-file", map[string][]float64{"stoker": {1200, 1000, 1500}, "llm-chat": {600, 500}})
	r.Series[1].Rounds[0].Tokens = 2900
	r.Series[0].Rounds[2].StepTime = map[string]Step{"8": {9, 1.5}, "16": {4, 2}, "1024": {300, 87.25}, "512": {80, 31}}
	files := someReport("files", map[string][]float64{"stoker": {100}})
	files.Series[0].Part = Part{1, 2}
	if err := r.Join(files); err != nil {
		t.Fatal(err)
	}
	r.Summarize()
	var got bytes.Buffer
	if err := r.WriteTable(&got); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join("testdata", "table.golden"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// What is written and read again can be added to: rounds gather in their series, in the order in which they were run.
func TestJoin(t *testing.T) {
	first := someReport("one-file", map[string][]float64{"stoker": {1000}, "llm-chat": {500}})
	var text bytes.Buffer
	if err := first.WriteJSON(&text); err != nil {
		t.Fatal(err)
	}
	earlier, err := Read(&text)
	if err != nil {
		t.Fatal(err)
	}
	later := someReport("one-file", map[string][]float64{"stoker": {2000}, "serve": {400}})
	if err := later.Join(earlier); err != nil {
		t.Fatal(err)
	}
	later.Summarize()
	got := map[string][]float64{}
	for _, s := range later.Series {
		got[s.Way] = each(s.Rounds, Sample.rate)
	}
	if diff := cmp.Diff(map[string][]float64{"stoker": {1000, 2000}, "llm-chat": {500}, "serve": {400}}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for _, s := range later.Series {
		if s.Way == "serve" && s.Stoker != (Spread{Median: 3.75, Min: 2.5, Max: 5}) {
			t.Errorf("stoker is %v × serve", s.Stoker)
		}
	}
}

func TestJoinRefusesOthers(t *testing.T) {
	for name, change := range map[string]func(*Report){
		"engine":    func(r *Report) { r.Engine.Version = "0.26.0" },
		"arguments": func(r *Report) { r.Engine.Args = nil },
		"load":      func(r *Report) { r.Series[0].Scenario.Load.Seed++ },
	} {
		a, b := someReport("one-file", nil), someReport("one-file", nil)
		change(b)
		if err := a.Join(b); !errors.Is(err, ErrOther) {
			t.Errorf("another %s: %v", name, err)
		}
	}
}
