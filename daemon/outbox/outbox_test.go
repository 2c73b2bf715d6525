package outbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"golang.org/x/sys/unix"
	"stoker/store"
	"stoker/store/durable"
	"stoker/store/journal"
	"stoker/test/faultfs"
)

var three = []string{`{"prompt":"a"}`, `{"prompt":"b"}`, `{"prompt":"c"}`}

var results = []string{"x.batch.json", "x.errors.jsonl", "x.output.jsonl"}

const output = `{"custom_id":"line-1","response":"0"}` + "\n" + `{"custom_id":"line-3","response":"2"}` + "\n"

func TestPublishes(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		r.finish(r.complete("q", "x.jsonl", three...))
		r.wantEnded(1)
		r.wantFiles("q/x.batch.json", "q/x.errors.jsonl", "q/x.output.jsonl")
		if diff := cmp.Diff(output, r.read("q/x.output.jsonl")); diff != "" {
			t.Errorf("output (-want +got):\n%s", diff)
		}
		var o object
		if err := json.Unmarshal([]byte(r.read("q/x.batch.json")), &o); err != nil {
			t.Fatal(err)
		}
		if o.Status != "completed" || o.RequestCounts != (requestCounts{3, 2, 1}) || o.Stoker.Queue != "q" || *o.Model != "m" ||
			o.Stoker.Output.Name != "x.output.jsonl" || o.Stoker.Errors.Bytes != int64(len(r.read("q/x.errors.jsonl"))) ||
			o.Stoker.TopErrors[0] != (topError{"request_timeout", "late", 1}) {
			t.Errorf("batch object is %+v", o)
		}
		for _, name := range results {
			if st, err := os.Stat(r.path("q/" + name)); err != nil || st.Mode().Perm() != 0o640 {
				t.Errorf("%s has mode %s: %v", name, st.Mode(), err)
			}
		}
		if rec := r.ended[0]; rec.State != store.Completed || rec.PublishedAs != "x" {
			t.Errorf("record is %+v", rec)
		}
	})
}

func TestCompletionOrder(t *testing.T) {
	bubble(t, func(r *rig) {
		r.o.InputOrder = false
		r.run()
		r.finish(r.complete("", "x.jsonl", three...))
		if got := r.read("x.output.jsonl"); !strings.HasPrefix(got, `{"custom_id":"line-3"`) {
			t.Errorf("output is %s", got)
		}
	})
}

func TestFilesThatAreAbsent(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		r.finish(r.complete("", "good.jsonl", three[0]))
		r.finish(r.complete("", "bad.jsonl", "no JSON"))
		r.wantFiles("good.batch.json", "good.output.jsonl", "bad.batch.json", "bad.errors.jsonl")
		if got := r.read("bad.batch.json"); !strings.Contains(got, `"status": "failed"`) || !strings.Contains(got, `"output_file_id": null`) {
			t.Errorf("batch object of a refused batch is %s", got)
		}
	})
}

func TestGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root may give files to any group; using one's own")
	}
	bubble(t, func(r *rig) {
		r.o.Group = os.Getegid()
		r.run()
		r.finish(r.complete("", "x.jsonl", three...))
		r.wantFiles(results...)
	})
}

// A crash after any rename leaves files with what was recorded, which is not somebody else's.
func TestGoesOnAfterEachRename(t *testing.T) {
	for n := range 4 {
		bubble(t, func(r *rig) {
			b := r.complete("", "x.jsonl", three...)
			e := edition{p: New(r.o), b: b, dir: r.o.Dir}
			r.write("other", "")
			if err := errors.Join(b.Finalize(), e.write("x")); err != nil {
				t.Fatal(err)
			}
			for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch}[:n] {
				if err := os.Rename(e.temp(suffix), e.final(suffix)); err != nil {
					t.Fatal(err)
				}
			}
			id := b.Meta.ID
			b.Close()
			r.run()
			r.finish(r.open(id))
			r.wantEnded(1)
			r.wantFiles(append(results, "other")...)
		})
	}
}

// Foreign files are not replaced, whichever name they take and whatever they are: all files get another name.
func TestForeignFiles(t *testing.T) {
	for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch} {
		for kind, place := range map[string]func(path string) error{
			"file":   func(path string) error { return os.WriteFile(path, []byte("mine"), 0o600) },
			"folder": func(path string) error { return os.Mkdir(path, 0o700) },
			"link":   func(path string) error { return os.Symlink("/dev/null", path) },
		} {
			bubble(t, func(r *rig) {
				b := r.complete("", "x.jsonl", three...)
				r.write("other", "")
				if err := place(r.path("x" + suffix)); err != nil {
					t.Fatal(err)
				}
				r.run()
				r.finish(b)
				r.wantEnded(1)
				want := []string{"other", "x~2.batch.json", "x~2.errors.jsonl", "x~2.output.jsonl"}
				if kind != "folder" {
					want = append(want, "x"+suffix)
				}
				r.wantFiles(want...)
				if got := r.read("x~2.batch.json"); !strings.Contains(got, `"x~2.output.jsonl"`) || r.ended[0].PublishedAs != "x~2" {
					t.Errorf("published as %s, batch object is %s", r.ended[0].PublishedAs, got)
				}
				if err := os.RemoveAll(r.path("x" + suffix)); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// The same input makes the same answers, so that another batch's file may be equal to the byte. It stays where it is.
func TestEqualForeignFile(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		e := edition{p: New(r.o), b: b, dir: r.o.Dir}
		r.write("x.batch.json", "theirs")
		if err := errors.Join(b.Finalize(), e.write("x")); err != nil {
			t.Fatal(err)
		}
		equal, err := os.ReadFile(e.temp(store.SuffixOutput))
		if err != nil {
			t.Fatal(err)
		}
		r.write("x.output.jsonl", string(equal))
		id := b.Meta.ID
		b.Close()
		r.run()
		r.finish(r.open(id))
		r.wantEnded(1)
		r.wantFiles("x.batch.json", "x.output.jsonl", "x~2.batch.json", "x~2.errors.jsonl", "x~2.output.jsonl")
	})
}

// A file beside the results that would be taken for theirs makes them go elsewhere.
func TestStrangerBesideResults(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three[0]) // has no errors
		r.write("x.errors.jsonl", "theirs")
		r.run()
		r.finish(b)
		r.wantEnded(1)
		r.wantFiles("x.errors.jsonl", "x~2.batch.json", "x~2.output.jsonl")
	})
}

func TestFaultsOfTheShareAreWaitedOut(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		if err := os.WriteFile(r.o.Dir, nil, 0o600); err != nil { // where the folder should be
			t.Fatal(err)
		}
		r.run()
		r.finish(b)
		r.pass(10 * time.Minute)
		r.wantEnded(0)
		if s := r.publisher.Status(); s.Queue != 1 || !strings.Contains(s.Reason, "not a directory") {
			t.Errorf("status is %+v", s)
		}
		os.Remove(r.o.Dir)
		r.pass(maxPause)
		r.wantEnded(1)
		r.wantFiles(results...)
		if s := r.publisher.Status(); s != (Status{}) {
			t.Errorf("status is %+v", s)
		}
	})
}

// A batch whose folder cannot be written does not hold up the others.
func TestOneBadFolder(t *testing.T) {
	bubble(t, func(r *rig) {
		bad, good := r.complete("q", "x.jsonl", three...), r.complete("", "x.jsonl", three...)
		r.write("q", "no folder")
		r.run()
		r.finish(bad)
		r.pass(time.Hour) // the pause is long by now
		r.finish(good)
		r.wantEnded(1)
		r.stop() // what is left is closed, and published by the next life
		os.Remove(r.path("q"))
		r.run()
		r.finish(r.open(bad.Meta.ID))
		r.wantEnded(2)
	})
}

// Whatever somebody sweeps from the outbox, the journal has it.
func TestSweptOutbox(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		e := edition{p: New(r.o), b: b, dir: r.o.Dir}
		r.write("other", "")
		if err := errors.Join(b.Finalize(), e.write("x"), os.RemoveAll(r.o.Dir)); err != nil {
			t.Fatal(err)
		}
		r.o.InputOrder = false // configured since; what was recorded holds
		r.run()
		r.finish(b)
		r.wantEnded(1)
		r.wantFiles(results...)
		if got := r.read("x.output.jsonl"); got != output {
			t.Errorf("output is %s", got)
		}
	})
}

// A crash while a file is written again leaves half of it, which must not be published.
func TestHalfRestored(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		e := edition{p: New(r.o), b: b, dir: r.o.Dir}
		r.write("other", "")
		if err := errors.Join(b.Finalize(), e.write("x"), os.Remove(e.temp(store.SuffixOutput))); err != nil {
			t.Fatal(err)
		}
		r.write(filepath.Base(e.temp(store.SuffixOutput))+partial, "half")
		r.run()
		r.finish(b)
		r.wantEnded(1)
		r.wantFiles(append(results, "other")...)
	})
}

// What is written again does not make a file that has its name already look like somebody else's, however often it is cut
// off.
func TestRestoredBesideInstalled(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		e := edition{p: New(r.o), b: b, dir: r.o.Dir}
		r.write("other", "")
		err := errors.Join(b.Finalize(), e.write("x"), e.installOne(store.SuffixOutput, b.Publication().Files[0].SHA256), os.Remove(e.temp(store.SuffixErrors)))
		if err != nil {
			t.Fatal(err)
		}
		share := faultfs.New(durable.Local{})
		share.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.Sync && strings.Contains(path, store.SuffixErrors) {
				return unix.EIO
			}
			return nil
		})
		r.o.FS = share
		r.run()
		r.finish(b)
		r.wantEnded(0)
		r.stop()
		r.o.FS = nil
		r.run()
		r.finish(r.open(b.Meta.ID))
		r.wantEnded(1)
		r.wantFiles(append(results, "other")...)
	})
}

// What was complete stays complete when a reader takes a file away before stoker noted the end.
func TestTakenAwayBeforeTheEnd(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		e := edition{p: New(r.o), b: b, dir: r.o.Dir}
		r.write("other", "")
		if err := errors.Join(b.Finalize(), e.write("x"), e.install(), os.Remove(r.path("x.output.jsonl"))); err != nil {
			t.Fatal(err)
		}
		r.run()
		r.finish(b)
		r.wantEnded(1)
		r.wantFiles("other", "x.batch.json", "x.errors.jsonl")
	})
}

// A link that somebody planted at a temporary name is not followed.
func TestPlantedLink(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		victim := filepath.Join(r.dir, "victim")
		if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.write("other", "")
		e := edition{p: New(r.o), b: b, dir: r.o.Dir}
		for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch, store.SuffixStatus} {
			for _, path := range []string{e.temp(suffix), e.temp(suffix) + partial} {
				if err := os.Symlink(victim, path); err != nil {
					t.Fatal(err)
				}
			}
		}
		r.run()
		r.publisher.SetNotes([]Note{{Name: "x", ID: b.Meta.ID, State: store.InProgress}})
		r.pass(0)
		r.finish(b)
		r.wantEnded(1)
		if got, err := os.ReadFile(victim); err != nil || string(got) != "precious" {
			t.Errorf("the victim holds %q: %v", got, err)
		}
		os.Remove(e.temp(store.SuffixStatus) + partial) // no name of stoker's
		r.wantFiles(append(results, "other")...)
	})
}

// Damaged records run again; an edition that was recorded with them is made anew.
func TestDamagedJournal(t *testing.T) {
	for _, recorded := range []bool{false, true} {
		bubble(t, func(r *rig) {
			b := r.complete("", "x.jsonl", three...)
			if recorded {
				r.write("other", "")
				e := edition{p: New(r.o), b: b, dir: r.o.Dir}
				if err := errors.Join(b.Finalize(), e.write("x"), os.RemoveAll(r.o.Dir)); err != nil {
					t.Fatal(err)
				}
			}
			r.damage(b.Meta.ID, `"line-3"`)
			r.run()
			r.finish(b)
			r.wantEnded(0)
			if len(r.reopened) != 1 {
				t.Fatalf("%d batches were reopened, want 1", len(r.reopened))
			}
			seq, ok := b.Next()
			if !ok || seq != 2 {
				t.Fatalf("request %d runs again (%t), want 2", seq, ok)
			}
			if _, err := b.Append(journal.Frame{Kind: journal.KindOutput, Seq: seq, Payload: []byte(`{"custom_id":"line-3","response":"another"}`)}); err != nil {
				t.Fatal(err)
			}
			r.finish(b)
			r.wantEnded(1)
			r.wantFiles(results...)
			if got := r.read("x.output.jsonl"); !strings.Contains(got, "another") {
				t.Errorf("output is %s", got)
			}
		})
	}
}

// damage changes a byte of the journal behind a text.
func (r *rig) damage(id, text string) {
	r.t.Helper()
	path := filepath.Join(r.store.Dir(), "batches", id, "journal")
	journal, err := os.ReadFile(path)
	if err != nil {
		r.t.Fatal(err)
	}
	at := strings.Index(string(journal), text)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("#"), int64(at+1)); err != nil {
		r.t.Fatal(err)
	}
}

func TestNotes(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("q", "x.jsonl", three...)
		note := Note{Queue: "q", Name: "x", ID: b.Meta.ID, State: store.InProgress, Reason: "why", Done: 2, Failed: 1, Total: 3, ETA: time.Hour}
		r.run()
		r.publisher.SetNotes([]Note{note})
		r.pass(0)
		r.wantFiles("q/x.status.txt")
		for _, want := range []string{b.Meta.ID, "in_progress", "why", "2 of 3 (1 failed)", "ready:"} {
			if got := r.read("q/x.status.txt"); !strings.Contains(got, want) {
				t.Errorf("note is %s, want %s in it", got, want)
			}
		}
		if st, err := os.Stat(r.path("q/x.status.txt")); err != nil || st.Mode().Perm() != 0o640 {
			t.Errorf("mode is %s: %v", st.Mode(), err)
		}
		if taken, err := r.publisher.NameTaken("q", "x"); !taken || err != nil {
			t.Errorf("name is taken: %t, %v", taken, err)
		}
		r.finish(b)
		want := []string{"q/x.batch.json", "q/x.errors.jsonl", "q/x.output.jsonl"}
		r.wantFiles(want...)
		r.publisher.SetNotes([]Note{note}) // gathered before the batch ended
		r.pass(0)
		r.wantFiles(want...)
	})
}

// A batch ends when its note is gone for good: a power cut brings back what was removed since its folder's last sync.
func TestNoteIsGoneBeforeTheEnd(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("q", "x.jsonl", three...)
		var gone atomic.Bool // as of the last sync
		disk := faultfs.New(durable.Local{})
		disk.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.SyncDir && path == r.path("q") {
				_, err := os.Lstat(r.path("q/x.status.txt"))
				gone.Store(err != nil)
			}
			return nil
		})
		r.o.FS = disk
		r.run()
		r.publisher.SetNotes([]Note{{Queue: "q", Name: "x", ID: b.Meta.ID, State: store.InProgress, Total: 3}})
		r.pass(0)
		r.wantFiles("q/x.status.txt")
		r.finish(b)
		r.wantEnded(1)
		r.wantFiles("q/x.batch.json", "q/x.errors.jsonl", "q/x.output.jsonl")
		if !gone.Load() {
			t.Error("the note is removed, and its folder was not synced since")
		}
	})
}

func TestNoNotes(t *testing.T) {
	bubble(t, func(r *rig) {
		r.o.Notes = false
		r.run()
		r.publisher.SetNotes([]Note{{Name: "x", ID: "batch"}})
		r.pass(time.Minute)
		r.wantFiles()
	})
}

func TestNameTaken(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		for _, suffix := range []string{".batch.json", ".output.jsonl", ".errors.jsonl", ".status.txt"} {
			r.write("q/y"+suffix, "")
			for name, want := range map[store.FileName]bool{"y": true, "z": false} {
				if taken, err := r.publisher.NameTaken("q", name); taken != want || err != nil {
					t.Errorf("%s, %s is taken: %t, %v", suffix, name, taken, err)
				}
			}
			os.Remove(r.path("q/y" + suffix))
		}
	})
}

// A crash between the last rename and the end repeats nothing.
func TestCrashBeforeTheEnd(t *testing.T) {
	bubble(t, func(r *rig) {
		b := r.complete("", "x.jsonl", three...)
		r.run()
		r.stop()
		if err := errors.Join(b.Finalize(), r.publisher.publishFiles(b)); err != nil {
			t.Fatal(err)
		}
		id := b.Meta.ID
		b.Close()
		r.run()
		r.finish(r.open(id))
		r.wantEnded(1)
		r.wantFiles(results...)
	})
}

// Settings that change while it runs hold from the next batch on. Notes that are no longer wanted are not written, and go
// with their batch.
func TestConfigure(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		b := r.complete("", "x.jsonl", three...)
		note := []Note{{Name: b.Meta.Name, ID: b.Meta.ID, State: store.InProgress, Total: 3}}
		r.publisher.SetNotes(note)
		synctest.Wait()
		r.wantFiles("x.status.txt")
		s := r.o.Settings
		s.InputOrder, s.Mode, s.Notes = false, 0o600, false
		r.publisher.Configure(s)
		before := r.read("x.status.txt")
		time.Sleep(time.Hour)
		r.publisher.SetNotes(note)
		synctest.Wait()
		if after := r.read("x.status.txt"); after != before {
			t.Errorf("a note is written: %s", after)
		}
		r.finish(b)
		r.wantFiles("x.batch.json", "x.errors.jsonl", "x.output.jsonl")
		if got := r.read("x.output.jsonl"); !strings.HasPrefix(got, `{"custom_id":"line-3"`) {
			t.Errorf("output is %s", got)
		}
		if st, err := os.Stat(r.path("x.output.jsonl")); err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("it has mode %s: %v", st.Mode(), err)
		}
	})
}
