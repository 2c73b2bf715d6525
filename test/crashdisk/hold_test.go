//go:build disk

package crashdisk

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"stoker/store"
)

// violation is an invariant that does not hold.
type violation struct{ invariant, what string }

func (v *violation) Error() string { return v.invariant + ": " + v.what }

func broken(invariant, format string, args ...any) error {
	return &violation{invariant, fmt.Sprintf(format, args...)}
}

// sight is what there is after recovery.
type sight struct {
	batches map[string]batch
	inputs  map[string][]string // paths of the copies of each dropped file
	redone  int                 // lines that run again
}

type batch struct {
	record  *store.Record
	records uint32 // requests that have one
}

// hold compares what there is with what was promised before the cut.
func (x *explorer) hold(seen sight, cut int) (errs []error) {
	for _, in := range x.r.inputs() {
		errs = append(errs, x.holdInput(seen, in.Name, in.Content(), cut))
	}
	for _, p := range x.r.Promises {
		if p.At > cut {
			continue
		}
		switch p.What {
		case accepted:
			errs = append(errs, x.holdAccepted(seen, p))
		case kept:
			if b, ok := seen.batches[p.Batch]; ok && b.records < p.Records {
				errs = append(errs, broken("I3", "%d records of %s were durable, %d are there", p.Records, p.Batch, b.records))
			}
		case ended:
			errs = append(errs, x.holdPublished(p))
			if b, ok := seen.batches[p.Batch]; ok && !b.record.State.Ended() {
				errs = append(errs, broken("I3", "%s had ended and is %s", p.Batch, b.record.State))
			}
		case archived:
			errs = append(errs, x.holdArchived(seen, p))
		case setAside:
			if !slices.ContainsFunc(seen.inputs[p.Name], func(path string) bool { return strings.HasPrefix(path, "archive/duplicate/") }) {
				errs = append(errs, broken("I5", "%s was set aside and is at %v", p.Name, seen.inputs[p.Name]))
			}
		}
	}
	return errs
}

// holdInput proves that a dropped file is whole and in one place, as often as it was dropped.
func (x *explorer) holdInput(seen sight, name, content string, cut int) error {
	paths := seen.inputs[filepath.Base(name)]
	least, most := x.r.dropped(name, cut)
	if n := x.files(paths); n < least || n-x.underway(paths) > most {
		return broken("I5", "%s was dropped at least %d and at most %d times, and is at %v", name, least, most, paths)
	}
	want := sum([]byte(content))
	for _, path := range paths {
		if got, err := digest(filepath.Join(x.m.dir, path)); err != nil || got != want {
			return broken("I5", "%s is not what was dropped: %v", path, err)
		}
	}
	return nil
}

// files counts files, of which one may have two names: Btrfs keeps half a rename between two folders.
func (x *explorer) files(paths []string) (n int) {
	var seen []fs.FileInfo
	for _, path := range paths {
		st, err := os.Lstat(filepath.Join(x.m.dir, path))
		if err == nil && !slices.ContainsFunc(seen, func(s fs.FileInfo) bool { return os.SameFile(s, st) }) {
			seen = append(seen, st)
		}
	}
	return len(seen)
}

// underway is how many of an input's places may be those that copies are taken from, to another file system.
func (x *explorer) underway(paths []string) int {
	if len(x.m.layout) == 1 {
		return 0
	}
	claimed, archived := 0, 0
	for _, path := range paths {
		if isArchived(path) {
			archived++
		} else if isClaimed(path) {
			claimed++
		}
	}
	return min(claimed, archived)
}

func isArchived(path string) bool { return strings.HasPrefix(path, "archive/") }
func isClaimed(path string) bool  { return strings.HasPrefix(path, "inbox/.processing/") }

// holdAccepted proves that a batch is known, and that its input can no longer be taken for another one.
func (x *explorer) holdAccepted(seen sight, p promise) error {
	b, ok := seen.batches[p.Batch]
	if !ok {
		return broken("I3", "%s, %s, was accepted and is unknown", p.Batch, p.Name)
	}
	paths := seen.inputs[string(b.record.Input.Name)]
	for _, path := range paths {
		if isArchived(path) || isClaimed(path) && strings.Contains(path, p.Batch) {
			return nil
		}
	}
	return broken("I5", "%s was accepted, and its input is at %v", p.Batch, paths)
}

// holdPublished proves that a batch's result files are what they were.
func (x *explorer) holdPublished(p promise) error {
	found := 0
	for name, want := range x.r.Outbox {
		stem, _, _ := strings.Cut(name, ".")
		if stem != p.Name {
			continue
		}
		found++
		paths, err := filepath.Glob(filepath.Join(x.m.dir, "outbox", name))
		inQueues, err2 := filepath.Glob(filepath.Join(x.m.dir, "outbox", "*", name))
		if paths = append(paths, inQueues...); err != nil || err2 != nil || len(paths) != 1 {
			return broken("I4", "%s was published and is at %v", name, paths)
		}
		if got, err := digest(paths[0]); err != nil || got != want {
			return broken("I4", "%s was published and has changed: %v", name, err)
		}
	}
	if found == 0 {
		return broken("I4", "%s was published, but was not there in the end", p.Name)
	}
	return nil
}

// holdArchived proves that an input is where it was archived, and no longer claimed.
func (x *explorer) holdArchived(seen sight, p promise) error {
	b, ok := seen.batches[p.Batch]
	if !ok {
		return nil // told where it was accepted
	}
	_, to, _ := strings.Cut(p.Path, "/archive/")
	paths := seen.inputs[string(b.record.Input.Name)]
	if !slices.Contains(paths, "archive/"+to) || slices.ContainsFunc(paths, func(path string) bool { return strings.Contains(path, p.Batch) }) {
		return broken("I5", "the input of %s was archived as %s and is at %v", p.Batch, to, paths)
	}
	return nil
}
