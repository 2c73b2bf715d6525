package bench

import (
	"context"
	"time"
)

// host is a process, or several, that holds an engine and runs files in one or more ways. Its methods are called in turn.
type host interface {
	// start returns when requests can be run.
	start(ctx context.Context) (Loaded, error)
	// run runs files, all of whose requests are known beforehand, and returns when the last answer is there.
	run(ctx context.Context, way string, files []string) (Sample, error)
	// stop ends all of it. It is called whether start was successful or not.
	stop()
}

// Loaded is what an engine says once it is ready.
type Loaded struct {
	Seconds    float64 `json:"seconds"` // from the start of the process
	MaxNumSeqs int     `json:"max_num_seqs,omitzero"`
	KVTokens   int64   `json:"kv_cache_tokens,omitzero"`
}

// Sample is a round: one way, one load.
type Sample struct {
	Seconds  float64         `json:"seconds"`
	Requests int64           `json:"requests"`
	Failed   int64           `json:"failed"`
	Tokens   int64           `json:"tokens"` // of the answers
	CPU      CPU             `json:"cpu_seconds"`
	Steps    int64           `json:"steps,omitzero"` // of the engine, where the way can tell
	StepTime map[string]Step `json:"step_ms,omitzero"`
	Starts   []float64       `json:"start_seconds,omitzero"` // what of Seconds went into starts, where they count
}

// Step is how long the engine's steps took while about as many requests ran, prefill left out.
type Step struct {
	Steps    int64   `json:"steps"`
	MedianMS float64 `json:"median_ms"`
}

// rate is what ways are compared by: tokens a second, or requests where an engine counts none.
func (s Sample) rate() float64 {
	if s.Tokens > 0 {
		return float64(s.Tokens) / s.Seconds
	}
	return float64(s.Requests) / s.Seconds
}

// unit is what rate counts.
func (s Sample) unit() string {
	if s.Tokens > 0 {
		return "tok/s"
	}
	return "requests/s"
}

// lookEvery is how often something is looked at that cannot be waited for.
const lookEvery = 5 * time.Millisecond
