package store

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"stoker/store/durable"
	"stoker/store/journal"
)

// broken returns the findings that are no notes.
func (r *Report) broken() (broken []Finding) {
	for _, f := range r.Findings {
		if !f.Note {
			broken = append(broken, f)
		}
	}
	return broken
}

// removeLine takes a line, counted from 1, out of a text.
func removeLine(n int) func([]byte) []byte {
	return func(b []byte) []byte {
		all := slices.Collect(bytes.Lines(b))
		return bytes.Join(slices.Delete(all, n-1, n), nil)
	}
}

// TestEachInvariant breaks each invariant on the disk by hand, beside a batch that is whole, and requires findings of this
// invariant and no other, with file and line. What breaks none is noted.
func TestEachInvariant(t *testing.T) {
	write := func(w *world, elem ...string) {
		path := filepath.Join(elem...)
		must(w, os.MkdirAll(filepath.Dir(path), 0o755))
		must(w, os.WriteFile(path, []byte("x"), 0o600))
	}
	outbox := func(w *world, name string) string { return filepath.Join(w.folders().Outbox, name) }
	record := func(w *world, id string, change func(r *Record)) {
		_, err := w.update(id, func(_ *bbolt.Tx, r *Record) error { change(r); return nil })
		must(w, err)
	}
	link := func(w *world, id string) {
		must(w, os.Link(filepath.Join(w.claimDir(w.folders(), id), "x.jsonl"), filepath.Join(w.folders().Inbox, "x.jsonl")))
	}
	mended := []string{"half a database", "unaccepted", "index of inputs"} // by the next start
	for _, test := range []struct {
		name string
		// state: running (two of four requests have run), ended, archived
		state  string
		damage func(w *world, id string)
		want   Invariant // "": a note
		file   string    // how its name ends
		line   int64
	}{
		{"doubled frame", "running", func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { return append(f, f[1]) })
		}, OneRecord, "/journal", 2},
		{"doubled frame", "archived", func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { return slices.Insert(f, 1, f[0]) })
		}, OneRecord, "/journal", 1},
		{"stray frame", "archived", func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame {
				return slices.Insert(f, 1, journal.Frame{Kind: journal.KindOutput, Seq: 99, Payload: []byte(`{}`)})
			})
		}, NoStray, "/journal", 0},
		{"swapped records", "running", func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame {
				f[0].Payload, f[1].Payload = f[1].Payload, f[0].Payload
				return f
			})
		}, NoStray, "/journal", 1},
		{"bit flip in the journal", "running", func(w *world, id string) { w.damageRecord(id, 1) }, NothingLost, "/journal", 2},
		{"bit flip in the journal", "archived", func(w *world, id string) { w.damageRecord(id, 2) }, NothingLost, "/journal", 3},
		{"bit flip in the snapshot", "running", func(w *world, id string) {
			w.edit(w.path(id, inputFile), func(b []byte) []byte { return flip(b, len(b)-5) })
		}, NothingLost, "/input.jsonl", 0},
		{"record contradicts meta.json", "archived", func(w *world, id string) { record(w, id, func(r *Record) { r.Requests++ }) }, NothingLost, "/stoker.db", 0},
		{"record gone", "archived", func(w *world, id string) {
			must(w, w.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketBatches).Delete([]byte(id)) }))
		}, NothingLost, "", 0},
		{"file not in the index of inputs", "archived", func(w *world, id string) {
			must(w, w.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketInputs).Delete(w.inputKey(id)) }))
		}, NothingLost, "/stoker.db", 0},
		{"another file's batch in the index of inputs", "archived", func(w *world, id string) {
			must(w, w.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketInputs).Put([]byte("q/y.jsonl/0"), []byte(id)) }))
		}, NothingLost, "/stoker.db", 0},
		{"line removed", "archived", func(w *world, id string) { w.edit(outbox(w, "x.output.jsonl"), removeLine(2)) }, PublishedAs, "/x.output.jsonl", 2},
		{"last line removed", "archived", func(w *world, id string) { w.edit(outbox(w, "x.output.jsonl"), removeLine(3)) }, PublishedAs, "/x.output.jsonl", 3},
		{"line added", "archived", func(w *world, id string) {
			w.edit(outbox(w, "x.errors.jsonl"), func(b []byte) []byte { return append(b, b...) })
		}, PublishedAs, "/x.errors.jsonl", 2},
		{"bit flip in a result", "archived", func(w *world, id string) {
			w.edit(outbox(w, "x.output.jsonl"), func(b []byte) []byte { return flip(b, bytes.IndexByte(b, '\n')+9) })
		}, PublishedAs, "/x.output.jsonl", 2},
		{"result cut off", "archived", func(w *world, id string) {
			w.edit(outbox(w, "x.output.jsonl"), func(b []byte) []byte { return b[:len(b)-1] })
		}, PublishedAs, "/x.output.jsonl", 3},
		{"swapped results", "archived", func(w *world, id string) {
			must(w, os.Rename(outbox(w, "x.output.jsonl"), outbox(w, "y")))
			must(w, os.Rename(outbox(w, "x.errors.jsonl"), outbox(w, "x.output.jsonl")))
			must(w, os.Rename(outbox(w, "y"), outbox(w, "x.errors.jsonl")))
		}, PublishedAs, "/x.errors.jsonl", 1},
		{"batch object edited", "archived", func(w *world, id string) {
			w.edit(outbox(w, "x.batch.json"), func(b []byte) []byte { return flip(b, 4) })
		}, PublishedAs, "/x.batch.json", 1},
		{"publication not completed", "archived", func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { return f[:len(f)-1] })
		}, PublishedAs, "/journal", 0},
		{"archived and claimed", "archived", func(w *world, id string) { write(w, w.claimDir(w.folders(), id), "x.jsonl") }, InputOnce, "/x.jsonl", 0},
		{"claim of an archived batch", "archived", func(w *world, id string) { write(w, w.claimDir(w.folders(), id), ".queue") }, InputOnce, "", 0},
		{"claimed and in the inbox", "running", func(w *world, id string) {
			link(w, id)
			m, err := w.Meta(id) // of a batch that was accepted after that
			must(w, err)
			m.CreatedAt += 10_000
			must(w, writeMeta(w.fs, w.batchDir(id), m))
			record(w, id, func(r *Record) { r.CreatedAt = m.CreatedAt })
		}, InputOnce, "/inbox/x.jsonl", 0},
		{"linked into the inbox again", "running", func(w *world, id string) {
			time.Sleep(20 * time.Millisecond) // the kernel's clock for inodes is coarse
			link(w, id)
		}, "", "/inbox/x.jsonl", 0},
		{"gone from the archive", "archived", func(w *world, id string) { must(w, os.RemoveAll(w.folders().Archive)) }, "", "/archive/done/x.jsonl", 0},
		{"changed in the archive", "archived", func(w *world, id string) {
			w.edit(filepath.Join(w.folders().Archive, "done/x.jsonl"), func(b []byte) []byte { return flip(b, 3) })
		}, "", "/archive/done/x.jsonl", 0},
		{"copied, not unlinked yet", "ended", func(w *world, id string) {
			must(w, os.CopyFS(filepath.Join(w.folders().Archive, "done"), os.DirFS(w.claimDir(w.folders(), id))))
		}, "nothing", "", 0},
		{"checkpoint ahead", "running", func(w *world, id string) {
			p, err := w.Progress(id)
			must(w, err)
			p.Offset++
			w.putProgress(id, p.encode())
		}, CheckpointOK, "/journal", 0},
		{"damaged checkpoint", "running", func(w *world, id string) { w.putProgress(id, []byte("?")) }, "", "/stoker.db", 0},
		{"damaged checkpoint", "ended", func(w *world, id string) { w.putProgress(id, []byte("?")) }, CheckpointOK, "/stoker.db", 0},
		{"journal gone", "running", func(w *world, id string) { must(w, os.Remove(w.path(id, journalFile))) }, Resumes, "/journal", 0},
		{"meta damaged", "running", func(w *world, id string) { must(w, os.Truncate(w.path(id, metaFile), 9)) }, Resumes, "/meta.json", 0},
		{"publish frame that says nothing", "running", func(w *world, id string) {
			frame := encodeFrames(t, journal.Frame{Kind: journal.KindPublish, Payload: []byte("{")})[journal.Start:]
			w.edit(w.path(id, journalFile), func(b []byte) []byte { return append(b, frame...) })
		}, Resumes, "/journal", 0},
		{"bad record", "archived", func(w *world, id string) {
			must(w, w.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketBatches).Put([]byte(id), []byte("{")) }))
		}, Resumes, "", 0},
		{"redone out of nothing", "running", func(w *world, id string) {
			w.rewriteJournal(id, func([]journal.Frame) []journal.Frame { return nil })
			w.putProgress(id, (&Progress{Offset: journal.Start, Redone: 3}).encode())
		}, RedoBounded, "/stoker.db", 0},
		{"half a database", "running", func(w *world, id string) { write(w, w.Dir(), "stoker.db.7.tmp") }, NoLeftovers, "/stoker.db.7.tmp", 0},
		{"scratch file of an ended batch", "archived", func(w *world, id string) { write(w, w.path(id, "stoker-1.tmp")) }, NoLeftovers, "/stoker-1.tmp", 0},
		{"scratch file of a running batch", "running", func(w *world, id string) { write(w, w.path(id, "stoker-1.tmp")) }, "passing", "/stoker-1.tmp", 0},
		{"folder of an unaccepted batch", "running", func(w *world, id string) { write(w, w.path(NewID(), inputFile)) }, NoLeftovers, "", 0},
		{"stranger's folder", "running", func(w *world, id string) { write(w, w.path("stranger", "x")) }, "", "/stranger", 0},
		{"result of an ended batch", "archived", func(w *world, id string) { write(w, outbox(w, TempPrefix+id+SuffixOutput+".tmp")) }, NoLeftovers, SuffixOutput + ".tmp", 0},
		{"part of a result, in a queue", "archived", func(w *world, id string) {
			write(w, outbox(w, "q"), TempPrefix+id+SuffixOutput+".tmp.part")
		}, NoLeftovers, ".tmp.part", 0},
		{"result of a running batch", "running", func(w *world, id string) { write(w, outbox(w, TempPrefix+id+SuffixOutput+".tmp")) }, "passing", SuffixOutput + ".tmp", 0},
		{"result of another stoker's", "running", func(w *world, id string) {
			write(w, outbox(w, TempPrefix+NewID()+SuffixOutput+".tmp"))
		}, "", SuffixOutput + ".tmp", 0},
		{"copy of an archived input", "archived", func(w *world, id string) {
			write(w, w.folders().Archive, "done/q", durable.MovePrefix+id+".tmp")
		}, NoLeftovers, ".tmp", 0},
		{"copy of an input on its way", "ended", func(w *world, id string) {
			write(w, w.folders().Archive, "done", durable.MovePrefix+id+".tmp")
		}, "passing", ".tmp", 0},
		{"claim without a record", "running", func(w *world, id string) { w.drop("y.jsonl", lines(1)) }, "passing", "", 0},
		{"claim of nothing", "running", func(w *world, id string) { write(w, w.claimDir(w.folders(), NewID()), ".queue") }, "passing", "", 0},
		{"stranger's claim", "running", func(w *world, id string) { write(w, w.claimDir(w.folders(), "stranger"), "x") }, "", "/stranger", 0},
	} {
		t.Run(test.name+", "+test.state, func(t *testing.T) {
			w := newWorld(t, fastDir(t))
			defer func() { w.Close() }()
			whole := w.admit(w.drop("whole.jsonl", lines(5))).ID
			w.finish(whole, life{inputOrder: true})
			w.archive(whole)
			id := w.admit(w.drop("x.jsonl", lines(3)+"{broken\n")).ID
			if test.state == "running" {
				b := w.open(id)
				w.record(b, 0, "a")
				w.record(b, 1, "b")
				w.commit(b)
				must(t, b.Close())
			} else {
				w.finish(id, life{inputOrder: true})
			}
			if test.state == "archived" {
				w.archive(id)
			}
			w.checkClean()
			test.damage(w, id)

			for _, daemon := range []bool{true, false} {
				if !daemon {
					must(t, w.Close())
					s, err := OpenReadOnly(w.Dir())
					must(t, err)
					w.Store = s
				}
				want := test.want
				switch {
				case want == "passing" && daemon: // a live attempt's, for all that is known
					want = "nothing"
				case want == "passing", !daemon && slices.ContainsFunc(mended, func(what string) bool { return strings.Contains(test.name, what) }):
					want = ""
				}
				checkFindings(t, w.verify(), id, want, test.file, test.line)
			}
		})
	}
}

// checkFindings requires findings of one invariant; "" means notes, "nothing" no finding at all.
func checkFindings(t *testing.T, r *Report, id string, want Invariant, file string, line int64) {
	t.Helper()
	found := slices.ContainsFunc(r.Findings, func(f Finding) bool {
		return f.Invariant == want && f.Note == (want == "") && strings.HasSuffix(f.File, file) && f.Line == line
	})
	others := slices.ContainsFunc(r.broken(), func(f Finding) bool { return f.Invariant != want })
	if want == "nothing" {
		found = len(r.Findings) == 0
	}
	if !found || others || r.Broken() == (want == "" || want == "nothing") {
		t.Errorf("want %q of %q, line %d; found %+v", want, file, line, r.Findings)
	}
}

// Verify of one batch tells nothing of others.
func TestVerifyOfOneBatch(t *testing.T) {
	w := openWorld(t)
	one, other := w.admitLines(1), w.admitLines(2)
	for _, id := range []string{one, other} {
		w.finish(id, life{inputOrder: true})
	}
	must(t, os.WriteFile(w.path(other, "stoker-1.tmp"), nil, 0o600))
	for id, want := range map[string]int{one: 0, other: 1} {
		report, err := w.Verify(t.Context(), id, w.folders())
		must(t, err)
		if len(report.Findings) != want || report.Batches != 1 {
			t.Errorf("%+v", report)
		}
	}
}
