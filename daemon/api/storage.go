package api

import "time"

// Storage is a folder that something is wrong with, and what waits for it.
type Storage struct {
	Name   string    `json:"name"` // state, inbox, outbox or archive
	Path   string    `json:"path"`
	Kind   Wrong     `json:"kind"`
	Reason string    `json:"reason"`
	Since  time.Time `json:"since,omitzero"`
	Needed int64     `json:"needed_bytes,omitzero"` // of one that is full, about
	Free   int64     `json:"free_bytes,omitzero"`
	Waits  []string  `json:"waits,omitzero"` // what waits for it
}

// Wrong is what can be wrong with a folder.
type Wrong string

const (
	Full      Wrong = "full"
	Silent    Wrong = "silent"    // it does not answer
	Unmounted Wrong = "unmounted" // and inbox.require_mount is set
	Failing   Wrong = "failing"
)
