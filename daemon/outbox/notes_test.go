package outbox

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
	"stoker/test/faultfs"
)

func noteOf(b *store.Batch) Note {
	return Note{Queue: b.Meta.Queue, Name: b.Meta.Name, ID: b.Meta.ID, State: store.InProgress, Total: 3}
}

// A note's name may survive a power cut without what it says. It is the batch's all the same: written anew, and gone at the end.
func TestNoteWithoutItsContents(t *testing.T) {
	for title, left := range map[string]func(text string) string{
		"nothing":   func(string) string { return "" },
		"zeros":     func(text string) string { return string(make([]byte, len(text))) },
		"beginning": func(text string) string { return text[:9] },
		"torn":      func(text string) string { return text[:9] + string(make([]byte, len(text)-9)) },
	} {
		t.Run(title, func(t *testing.T) {
			bubble(t, func(r *rig) {
				b := r.complete("q", "x.jsonl", three...)
				r.run()
				for range 2 {
					r.publisher.SetNotes([]Note{noteOf(b)})
					r.pass(0)
					text := r.read("q/x.status.txt")
					if !strings.HasPrefix(text, heading(b.Meta.ID)) {
						t.Errorf("the note is not written anew: %q", text)
					}
					r.write("q/x.status.txt", left(text))
				}
				r.finish(b)
				r.wantEnded(1)
				r.wantFiles("q/x.batch.json", "q/x.errors.jsonl", "q/x.output.jsonl")
			})
		})
	}
}

// A share that fails while a note is removed is waited for.
func TestNoteOutlivesNoFault(t *testing.T) {
	for _, op := range []faultfs.Op{faultfs.Stat, faultfs.Open, faultfs.Read, faultfs.Remove} {
		t.Run(string(op), func(t *testing.T) {
			bubble(t, func(r *rig) {
				b := r.complete("", "x.jsonl", three...)
				share := faultfs.New(durable.Local{})
				r.o.FS = share
				r.run()
				r.publisher.SetNotes([]Note{noteOf(b)})
				r.pass(0)
				var failed atomic.Bool
				share.Set(func(o faultfs.Op, path string) error {
					if o == op && path == r.path("x.status.txt") && failed.CompareAndSwap(false, true) {
						return unix.EIO
					}
					return nil
				})
				r.finish(b)
				r.wantEnded(0)
				r.pass(maxPause)
				r.wantEnded(1)
				r.wantFiles(results...)
			})
		})
	}
}

// A batch whose publication was complete when stoker died may get a note before it ends. That one is gone for good, too.
func TestNoteOfPublishedIsGone(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		index := filepath.Join(r.dir, "state", "stoker.db")
		before, err := os.ReadFile(index)
		if err != nil {
			t.Fatal(err)
		}
		r.run(b)
		r.stop()
		r.wantEnded(1)
		if err := r.store.Close(); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(index, before, 0o600); err != nil { // the crash came before the commit
			t.Fatal(err)
		}
		if r.store, err = store.Open(filepath.Dir(index)); err != nil {
			t.Fatal(err)
		}
		b = r.open(b.Meta.ID)
		var synced atomic.Bool // since it was removed
		share := faultfs.New(durable.Local{})
		share.Set(func(op faultfs.Op, path string) error {
			_, err := os.Lstat(r.path("x.status.txt"))
			synced.Store(op == faultfs.SyncDir && path == r.o.Dir && err != nil)
			return nil
		})
		r.o.FS = share
		r.run()
		r.publisher.SetNotes([]Note{noteOf(b)})
		r.pass(0)
		r.wantFiles(append([]string{"x.status.txt"}, results...)...)
		r.finish(b)
		r.wantEnded(2)
		r.wantFiles(results...)
		if !synced.Load() {
			t.Error("the note is removed, and its folder was not synced since")
		}
	})
}

// However often notes are handed over while the outbox hangs in a batch's last steps, none is written after its end.
func TestNoNoteAfterTheEnd(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		share := faultfs.New(durable.Local{})
		hang, hung := make(chan struct{}), store.TempPrefix+b.Meta.ID+".output.jsonl.tmp"
		share.Set(func(op faultfs.Op, path string) error {
			if _, err := os.Lstat(r.path("x.batch.json")); err == nil && op == faultfs.Remove && path == r.path(hung) {
				<-hang
			}
			return nil
		})
		r.o.FS = share
		r.run()
		r.publisher.SetNotes([]Note{noteOf(b)})
		r.pass(0)
		r.finish(b)
		for range 3 {
			r.publisher.SetNotes([]Note{noteOf(b)})
			r.pass(NotesEvery)
		}
		r.wantEnded(0)
		close(hang)
		r.pass(0)
		r.wantEnded(1)
		r.publisher.SetNotes([]Note{noteOf(b)}) // gathered before the end
		r.pass(0)
		r.wantFiles(results...)
	})
}

// What is said of a batch that ended meanwhile is not written, also if notes were off then.
func TestNoNoteOfWhatEndedBeforeNotesAreWanted(t *testing.T) {
	bubble(t, func(r *rig) {
		r.o.Settings.Notes = false
		r.run()
		b := r.complete("", "x.jsonl", three...)
		gathered := []Note{noteOf(b)}
		r.finish(b)
		r.wantEnded(1)
		s := r.o.Settings
		s.Notes = true
		r.publisher.Configure(s)
		r.publisher.SetNotes(gathered)
		r.pass(0)
		r.wantFiles(results...)
	})
}
