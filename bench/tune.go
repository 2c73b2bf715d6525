package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/go-json-experiment/json"

	"stoker/hint"
)

// Candidate is an engine argument with the values that are worth trying.
type Candidate struct {
	Name   string
	Values []any
}

// Candidates are the few arguments that decide on throughput, the ones that gain most first: what comes later is tried with
// the best of what came before. On a GPU, CUDA graphs end at 512 sequences by default.
func Candidates(gpu bool) []Candidate {
	if !gpu {
		return []Candidate{
			{"max_num_seqs", []any{16, 32, 64, 128, 256}},
			{"max_num_batched_tokens", []any{1024, 2048, 4096}},
			{"async_scheduling", []any{true, false}},
		}
	}
	return []Candidate{
		{"max_num_seqs", []any{256, 512, 1024}},
		{"max_cudagraph_capture_size", []any{256, 512, 1024}},
		{"max_num_batched_tokens", []any{4096, 8192, 16384}},
		{"async_scheduling", []any{true, false}},
		{"enable_prefix_caching", []any{false}},
	}
}

// Trial is one try: arguments, and what came of them.
type Trial struct {
	Settings map[string]any `json:"settings"`
	Replicas int            `json:"replicas,omitzero"` // of stoker's engine; 0: tried in the bare loop
	Rounds   []Sample       `json:"rounds,omitzero"`
	Loaded   Loaded         `json:"loaded,omitzero"`
	Rate     Spread         `json:"tokens_per_second,omitzero"`
	Failed   string         `json:"failed,omitzero"` // why the engine did not start or run with them
}

// Tuning is what a sweep found.
type Tuning struct {
	Scenario Scenario       `json:"scenario"`
	Trials   []Trial        `json:"trials"`
	Best     map[string]any `json:"best"`              // arguments that beat those in effect; empty if none did
	Replicas int            `json:"replicas,omitzero"` // that beat one; 0 if they did not
	Gain     float64        `json:"gain"`              // rate with all that by the rate without

	batch int // sequences that the engine runs at a time with the best arguments
}

// margin is what a value must gain to be kept: less is noise, or not worth a line.
const margin = 1.02

// Tune sweeps over engine arguments, one after another, in the bare loop: what limits it limits stoker. A value is kept if even
// its slowest round beats the fastest one without it. With o.Replicas of 2 or more so many are tried beside one, in stoker, with
// the best arguments; the batch is shared out among them.
func Tune(ctx context.Context, o Options, candidates []Candidate) (*Tuning, error) {
	if len(o.Scenarios) != 1 {
		return nil, errors.New("tune one scenario at a time")
	}
	t := newTuning(o.Scenarios[0])
	bare := func(ctx context.Context, settings map[string]any) Trial {
		return t.measure(ctx, o, "handlers", 0, settings)
	}
	if err := t.sweep(ctx, o.Launch.Args, candidates, bare); err != nil || o.Replicas < 2 {
		return t, err
	}
	return t, t.replicate(ctx, o.Replicas, func(ctx context.Context, replicas int, settings map[string]any) Trial {
		return t.measure(ctx, o, "stoker", replicas, settings)
	})
}

// measure runs one trial, in a folder of its own.
func (t *Tuning) measure(ctx context.Context, o Options, way string, replicas int, settings map[string]any) Trial {
	trial := Trial{Settings: settings, Replicas: replicas}
	n := len(t.Trials) + 1
	o.Say("trial %d: %s", n, trial)
	s := o.Scenarios[0]
	s.Ways = []string{way}
	o.Scenarios, o.Ways, o.Passes = []Scenario{s}, nil, 1
	o.Settings, o.Replicas, o.Dir = settings, replicas, filepath.Join(o.Dir, fmt.Sprintf("trial-%02d", n))
	series, err := Run(ctx, o)
	if err != nil {
		trial.Failed = err.Error()
		o.Say("trial %d: %v", n, err)
		return trial
	}
	trial.Rounds, trial.Loaded = series[0].Rounds, series[0].Loads[0]
	trial.Rate = spreadOf(each(trial.Rounds, Sample.rate))
	return trial
}

func newTuning(s Scenario) *Tuning { return &Tuning{Scenario: s, Best: map[string]any{}, Gain: 1} }

// sweep tries candidates beside the arguments in effect. An engine that cannot run with them is a result.
func (t *Tuning) sweep(ctx context.Context, args map[string]any, candidates []Candidate, measure func(context.Context, map[string]any) Trial) error {
	try := func(settings map[string]any) (Trial, error) {
		trial := measure(ctx, settings)
		if ctx.Err() != nil {
			return trial, ctx.Err()
		}
		t.Trials = append(t.Trials, trial)
		return trial, nil
	}
	first, err := try(nil)
	if err != nil {
		return err
	}
	if first.Failed != "" {
		return &hint.Error{Message: "with the arguments in effect: " + first.Failed}
	}
	if n := first.Loaded.MaxNumSeqs; n > 0 { // vLLM's default, if none is configured
		inEffect := map[string]any{"max_num_seqs": n}
		maps.Copy(inEffect, args)
		args = inEffect
	}
	best := first
	t.batch = first.Loaded.MaxNumSeqs
	for _, c := range candidates {
		base := t.Best
		for _, value := range c.Values {
			if same(args[c.Name], value) {
				continue // what is in effect was measured without it
			}
			settings := maps.Clone(base)
			settings[c.Name] = value
			trial, err := try(settings)
			if err != nil {
				return err
			}
			if trial.Failed == "" && trial.Rate.Min > best.Rate.Max*margin {
				best, t.Best, t.Gain = trial, settings, trial.Rate.Median/first.Rate.Median
				t.batch = trial.Loaded.MaxNumSeqs
			}
		}
	}
	return nil
}

// replicate tries several replicas beside one.
func (t *Tuning) replicate(ctx context.Context, replicas int, measure func(context.Context, int, map[string]any) Trial) error {
	shared := maps.Clone(t.Best)
	if t.batch > replicas {
		shared["max_num_seqs"] = t.batch / replicas
	}
	one := measure(ctx, 1, t.Best)
	t.Trials = append(t.Trials, one)
	if ctx.Err() != nil || one.Failed != "" {
		return ctx.Err()
	}
	several := measure(ctx, replicas, shared)
	t.Trials = append(t.Trials, several)
	if several.Failed == "" && several.Rate.Min > one.Rate.Max*margin {
		t.Best, t.Replicas = shared, replicas
		t.Gain *= several.Rate.Median / one.Rate.Median
	}
	return ctx.Err()
}

// same compares a configured value with a candidate: numbers come in several types.
func same(configured, candidate any) bool {
	a, err := json.Marshal(configured)
	b, errB := json.Marshal(candidate)
	return err == nil && errB == nil && configured != nil && string(a) == string(b)
}

func (t Trial) String() string {
	text := settingsText(t.Settings)
	if t.Replicas > 0 {
		text = strings.TrimSuffix(fmt.Sprintf("replicas = %d, %s", t.Replicas, text), ", ")
	}
	return cmp.Or(text, "as configured")
}

// WriteTable writes the trials and, if there is something to gain, the lines for the configuration.
func (t *Tuning) WriteTable(w io.Writer) error {
	for _, trial := range t.Trials {
		if trial.Failed != "" {
			fmt.Fprintf(w, "%12s  %s: %s\n", "failed", trial, trial.Failed)
			continue
		}
		fmt.Fprintf(w, "%6s tok/s  %s (%s–%s)\n", humanize.Comma(int64(trial.Rate.Median)), trial,
			humanize.Comma(int64(trial.Rate.Min)), humanize.Comma(int64(trial.Rate.Max)))
	}
	if len(t.Best) == 0 {
		_, err := fmt.Fprintln(w, "\nnothing beat the arguments in effect beyond noise")
		return err
	}
	fmt.Fprintf(w, "\n%.2f× the rate of the arguments in effect, with:\n\n", t.Gain)
	if t.Replicas > 0 {
		fmt.Fprintf(w, "[engine]\nreplicas = %d\n\n", t.Replicas)
	}
	fmt.Fprintln(w, "[engine.args]")
	for _, name := range slices.Sorted(maps.Keys(t.Best)) {
		if _, err := fmt.Fprintln(w, settingsText(map[string]any{name: t.Best[name]})); err != nil {
			return err
		}
	}
	return nil
}
