// Package faultfs is a filesystem that fails, or hangs, when a test wants it to.
package faultfs

import (
	"io/fs"
	"sync"

	"stoker/store/durable"
)

// Op is what a filesystem is asked to do.
type Op = durable.Op

// What durable calls them.
const (
	Open     = durable.OpOpen
	Create   = durable.OpCreate
	Stat     = durable.OpStat
	ReadDir  = durable.OpReadDir
	Mkdir    = durable.OpMkdir
	Remove   = durable.OpRemove
	Rename   = durable.OpRename
	SyncDir  = durable.OpSyncDir
	Read     = durable.OpRead
	Write    = durable.OpWrite
	Truncate = durable.OpTruncate
	Chmod    = durable.OpChmod
	Chown    = durable.OpChown
	Chtime   = durable.OpChtime
	Sync     = durable.OpSync
	Close    = durable.OpClose
)

// Ops are all of them.
var Ops = []Op{
	Open, Create, Stat, ReadDir, Mkdir, Remove, Rename, SyncDir, Read, Write, Truncate, Chmod, Chown, Chtime, Sync, Close,
}

// Rule decides whether an operation fails, and how. It may block.
type Rule func(op Op, path string) error

// FS does what the filesystem below it does, unless its rule says otherwise.
type FS struct {
	durable.FS

	mu   sync.Mutex
	rule Rule
}

// New returns a filesystem without a rule.
func New(below durable.FS) *FS {
	f := new(FS)
	f.FS = durable.Around(below, f.around)
	return f
}

// Set sets the rule; nil ends all faults.
func (f *FS) Set(rule Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rule = rule
}

func (f *FS) ask(op Op, path string) error {
	f.mu.Lock()
	rule := f.rule
	f.mu.Unlock()
	if rule == nil {
		return nil
	}
	if err := rule(op, path); err != nil {
		return &fs.PathError{Op: string(op), Path: path, Err: err}
	}
	return nil
}

// around asks before a call, but for a look at an open file.
func (f *FS) around(c durable.Call, do func() error) error {
	if c.Op == Stat && c.Opened {
		return do()
	}
	if err := f.ask(c.Op, c.Path); err != nil {
		if c.Op == Close {
			do() // a descriptor is gone after the first try
		}
		return err
	}
	return do()
}
