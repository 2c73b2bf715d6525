package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/go-json-experiment/json"

	"stoker/engine"
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
	Rounds   []Sample       `json:"rounds,omitzero"`
	Loaded   Loaded         `json:"loaded,omitzero"`
	Rate     Spread         `json:"tokens_per_second,omitzero"`
	Failed   string         `json:"failed,omitzero"` // why the engine did not start or run with them
}

// Tuning is what a sweep found.
type Tuning struct {
	Scenario Scenario       `json:"scenario"`
	Trials   []Trial        `json:"trials"`
	Best     map[string]any `json:"best"` // arguments that beat those in effect; empty if none did
	Gain     float64        `json:"gain"` // rate with them by the rate without
}

// margin is what a value must gain to be kept: less is noise, or not worth a line.
const margin = 1.02

// Tune sweeps over engine arguments, one after another, in the bare loop: what limits it limits stoker. A value is kept if even
// its slowest round beats the fastest one without it.
func Tune(ctx context.Context, o Options, candidates []Candidate) (*Tuning, error) {
	if len(o.Scenarios) != 1 {
		return nil, errors.New("tune one scenario at a time")
	}
	s := o.Scenarios[0]
	s.Ways = []string{"handlers"}
	o.Scenarios, o.Ways, o.Passes = []Scenario{s}, nil, 1
	t := newTuning(s)
	return t, t.sweep(ctx, o.Launch.Args, candidates, func(ctx context.Context, settings map[string]any) Trial {
		n := len(t.Trials) + 1
		o.Say("trial %d: %s", n, name(settings))
		trial, its := Trial{Settings: settings}, o
		its.Settings, its.Dir = settings, filepath.Join(o.Dir, fmt.Sprintf("trial-%02d", n))
		series, err := Run(ctx, its)
		if err != nil {
			trial.Failed = err.Error()
			o.Say("trial %d: %v", n, err)
			return trial
		}
		trial.Rounds, trial.Loaded = series[0].Rounds, series[0].Loads[0]
		trial.Rate = spreadOf(each(trial.Rounds, Sample.rate))
		return trial
	})
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
		return &engine.PermanentError{Message: "with the arguments in effect: " + first.Failed}
	}
	if n := first.Loaded.MaxNumSeqs; n > 0 { // vLLM's default, if none is configured
		inEffect := map[string]any{"max_num_seqs": n}
		maps.Copy(inEffect, args)
		args = inEffect
	}
	best := first
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
			}
		}
	}
	return nil
}

// same compares a configured value with a candidate: numbers come in several types.
func same(configured, candidate any) bool {
	a, err := json.Marshal(configured)
	b, errB := json.Marshal(candidate)
	return err == nil && errB == nil && configured != nil && string(a) == string(b)
}

func name(settings map[string]any) string {
	if len(settings) == 0 {
		return "as configured"
	}
	return settingsText(settings)
}

// WriteTable writes the trials and, if there is something to gain, the lines for the configuration.
func (t *Tuning) WriteTable(w io.Writer) error {
	for _, trial := range t.Trials {
		if trial.Failed != "" {
			fmt.Fprintf(w, "%12s  %s: %s\n", "failed", name(trial.Settings), trial.Failed)
			continue
		}
		fmt.Fprintf(w, "%6s tok/s  %s (%s–%s)\n", humanize.Comma(int64(trial.Rate.Median)), name(trial.Settings),
			humanize.Comma(int64(trial.Rate.Min)), humanize.Comma(int64(trial.Rate.Max)))
	}
	if len(t.Best) == 0 {
		_, err := fmt.Fprintln(w, "\nnothing beat the arguments in effect beyond noise")
		return err
	}
	fmt.Fprintf(w, "\n%.2f× the rate of the arguments in effect, with:\n\n[engine.args]\n", t.Gain)
	for _, name := range slices.Sorted(maps.Keys(t.Best)) {
		if _, err := fmt.Fprintln(w, settingsText(map[string]any{name: t.Best[name]})); err != nil {
			return err
		}
	}
	return nil
}
