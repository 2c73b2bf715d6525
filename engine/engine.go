// Package engine runs what answers requests: a worker process that loads a model once and is fed over pipes
// (PROTOCOL.md), kept alive by a supervisor; or several of them, each with its own.
//
// The events that an Engine sends are all that a caller may rely on, so that a cluster can stand behind them too:
// requests are submitted under a key, answers come in any order and at least once, the capacity changes, and a loss is
// reported for what was in flight.
package engine

import (
	"time"

	"github.com/go-json-experiment/json/jsontext"
)

// Key names a request in flight. Its submitter chooses it and never uses it twice.
type Key uint64

// Request is what a worker needs to answer. The slices must not change until the request is answered or lost.
type Request struct {
	Key      Key
	URL      string
	Simple   bool   // Body is a whole input line of the simple form, not an OpenAI body
	Body     []byte // one JSON object, without newline
	Line     int64  // of the input file, for messages
	Defaults *Defaults
}

// Defaults are the parameters that requests may leave out, sent to each worker once.
type Defaults struct {
	ID     string
	Params jsontext.Value
}

// Answer is a request's end. With status 200 the body is the engine's response, else {"error":{…}}.
type Answer struct {
	Key    Key
	Status int
	Body   []byte
}

// Event is what an Engine reports: Capacity, Answers or Lost.
type Event interface{ event() }

// Capacity says how many requests the engine wants to hold from now on; 0 while it cannot answer.
type Capacity struct {
	InFlight int
	Model    string // what answers, as the worker names it
	Version  string // of the engine
}

// Answers are requests that ended, at least one.
type Answers []Answer

// Lost are requests that will not be answered and may be submitted again.
type Lost struct {
	Keys   []Key
	Blamed bool // the engine died while it held them; else they never reached it
	Reason string
}

func (Capacity) event() {}
func (Answers) event()  {}
func (Lost) event()     {}

// State is what the engine is doing.
type State string

const (
	Starting State = "starting" // the process is being started, or waits for its turn: then Phase says so
	Loading  State = "loading"  // the model is being loaded; Phase says how far
	Ready    State = "ready"
	BackOff  State = "back_off" // it died and is started again at RetryAt
	Failed   State = "failed"   // it is not started again: Reason must be dealt with first
	Stopped  State = "stopped"
)

// Status is the engine as people see it.
type Status struct {
	Kind       string    `json:"kind"`
	State      State     `json:"state"`
	Since      time.Time `json:"since"`
	Phase      string    `json:"phase,omitzero"`
	PhaseSince time.Time `json:"phase_since,omitzero"`
	Detail     string    `json:"detail,omitzero"`
	Phases     []Phase   `json:"phases,omitzero"` // of the start, the last one if it is over
	Reason     string    `json:"reason,omitzero"` // why it died last
	Hint       string    `json:"hint,omitzero"`
	RetryAt    time.Time `json:"retry_at,omitzero"`
	Shortage   *Shortage `json:"shortage,omitzero"` // of memory, if that is the reason
	LogTail    []string  `json:"log_tail,omitzero"` // last lines that look like errors

	PID          int     `json:"pid,omitzero"`
	Version      string  `json:"version,omitzero"`
	Untested     bool    `json:"untested,omitzero"` // a version that stoker's tests do not run
	Model        string  `json:"model,omitzero"`
	MaxModelLen  int     `json:"max_model_len,omitzero"`
	MaxNumSeqs   int     `json:"max_num_seqs,omitzero"`
	KVTokens     int64   `json:"kv_cache_tokens,omitzero"`
	LoadSeconds  float64 `json:"load_seconds,omitzero"`
	Capacity     int     `json:"capacity"`
	InFlight     int     `json:"in_flight"`
	Restarts     int     `json:"restarts"`
	Running      int     `json:"running"` // sequences in the engine's batch
	Waiting      int     `json:"waiting"`
	KVCache      float64 `json:"kv_cache_usage"`
	PromptTokens int64   `json:"prompt_tokens"`
	OutputTokens int64   `json:"generation_tokens"`
	OutputRate   float64 `json:"generation_tokens_per_second"` // over the last second

	Replicas []Status `json:"replicas,omitzero"` // if there are several: this is their sum
}

// PermanentError stops the supervisor: starting the worker again would end the same way.
type PermanentError struct {
	Message string
	Hint    string
}

func (e *PermanentError) Error() string { return e.Message }
