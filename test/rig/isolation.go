package rig

import (
	"bytes"
	"errors"

	"github.com/go-json-experiment/json"
)

// Isolation is how a daemon found a request that brings the engine down, as it said in its log: looking at `status` now and
// then would miss most of a search that takes a second.
type Isolation struct {
	Deaths   int    // of the engine, while it held requests
	Redone   int    // the most requests that one death made run again
	Answered int    // other requests, between the engine's first death and the quarantine
	Reason   string // of the first death
}

// ReadIsolation reads it from a daemon's log in JSON. No quarantine in it is an error.
func ReadIsolation(log []byte) (i Isolation, err error) {
	before := 0 // completed at the first death
	for line := range bytes.Lines(log) {
		var said struct {
			Message   string
			Requests  int
			Completed int
			Reason    string
		}
		if json.Unmarshal(line, &said, json.MatchCaseInsensitiveNames(true)) != nil {
			continue // a worker's own words
		}
		switch said.Message {
		case "requests in flight run again":
			if i.Deaths++; i.Deaths == 1 {
				before, i.Reason = said.Completed, said.Reason
			}
			i.Redone = max(i.Redone, said.Requests)
		case "request brings the engine down; given up":
			i.Answered = said.Completed - before
			return i, nil
		}
	}
	return i, errors.New("the log knows of no request that was given up")
}
