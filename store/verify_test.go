package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"stoker/store/journal"
)

// rewriteJournal replaces a journal's frames, and lets the checkpoint cover them.
func (w *world) rewriteJournal(id string, change func([]journal.Frame) []journal.Frame) {
	w.Helper()
	b := w.open(id)
	var frames []journal.Frame
	_, err := b.journal.Scan(context.Background(), journal.Start, b.journal.Size(), false, func(_ int64, f journal.Frame) error {
		f.Payload = append([]byte{}, f.Payload...)
		frames = append(frames, f)
		return nil
	})
	must(w, err)
	content := encodeFrames(w, change(frames)...)
	p := *b.Progress()
	p.Offset = int64(len(content))
	must(w, b.Close())
	must(w, os.WriteFile(w.path(id, journalFile), content, 0o600))
	w.putProgress(id, p.encode())
}

// TestVerifyFindsDamage damages a batch of which two requests have run, or one that has ended with two answers and an
// error, and looks for the finding.
func TestVerifyFindsDamage(t *testing.T) {
	outbox := func(w *world, name string) string { return filepath.Join(w.folders().Outbox, name) }
	second := journal.Frame{Kind: journal.KindOutput, Seq: 1, Payload: []byte(`{"custom_id":"r1","response":"other"}`)}
	for _, test := range []struct {
		name   string
		ended  bool
		damage func(w *world, id string)
		want   Invariant // "": a note
		file   string    // how its name ends
		line   int64
	}{
		{"flipped byte", false, func(w *world, id string) { w.damageRecord(id, 1) }, NothingLost, "/journal", 2},
		{"flipped byte, ended", true, func(w *world, id string) { w.damageRecord(id, 1) }, NothingLost, "/journal", 2},
		{"record gone", false, func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { return f[1:] })
		}, NothingLost, "/journal", 1},
		{"cut below the checkpoint", false, func(w *world, id string) {
			w.edit(w.path(id, journalFile), func(b []byte) []byte { return b[:len(b)-1] })
		}, CheckpointOK, "/journal", 0},
		{"cut to nothing", true, func(w *world, id string) { must(w, os.Truncate(w.path(id, journalFile), 0)) }, CheckpointOK, "/journal", 0},
		{"second record", false, func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { return append(f, second) })
		}, OneRecord, "/journal", 2},
		{"record not counted", false, func(w *world, id string) {
			third := journal.Frame{Kind: journal.KindOutput, Seq: 2, Payload: []byte(`{"custom_id":"r2","response":"a"}`)}
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { return append(f, third) })
		}, NothingLost, "/journal", 3},
		{"record of another request", false, func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { f[1].Payload = second.Payload[:0]; return f })
		}, NoStray, "/journal", 2},
		{"stray record", false, func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { second.Seq = 9; return append(f, second) })
		}, NoStray, "/journal", 0},
		{"journal of something else", false, func(w *world, id string) {
			must(w, os.WriteFile(w.path(id, journalFile), []byte("not a journal"), 0o600))
		}, Resumes, "/journal", 0},
		{"journal gone", false, func(w *world, id string) { must(w, os.Remove(w.path(id, journalFile))) }, Resumes, "/journal", 0},
		{"meta gone", false, func(w *world, id string) { must(w, os.Remove(w.path(id, metaFile))) }, Resumes, "/meta.json", 0},
		{"meta damaged", false, func(w *world, id string) { must(w, os.Truncate(w.path(id, metaFile), 9)) }, Resumes, "/meta.json", 0},
		{"checkpoint damaged", false, func(w *world, id string) { w.putProgress(id, nil) }, "", dbName, 0},
		{"checkpoint damaged, ended", true, func(w *world, id string) { w.putProgress(id, nil) }, CheckpointOK, dbName, 0},
		{"journal's head damaged", false, func(w *world, id string) {
			w.edit(w.path(id, journalFile), func(b []byte) []byte { return flip(b, 3) })
		}, "", "/journal", 0},
		{"index cut off", false, func(w *world, id string) { must(w, os.Truncate(w.path(id, indexFile), rowSize)) }, NothingLost, "/input.idx", 0},
		{"index damaged", false, func(w *world, id string) {
			w.edit(w.path(id, indexFile), func(b []byte) []byte { return flip(b, 7) })
		}, NothingLost, "/input.idx", 0},
		{"index points elsewhere", false, func(w *world, id string) {
			w.edit(w.path(id, indexFile), func(b []byte) []byte { copy(b, b[rowSize:2*rowSize]); return b })
		}, NothingLost, "/input.idx", 0},
		{"line damaged", false, func(w *world, id string) {
			w.edit(w.path(id, inputFile), func(b []byte) []byte { return flip(b, 3) })
		}, NothingLost, "/input.jsonl", 1},
		{"snapshot cut off", false, func(w *world, id string) { must(w, os.Truncate(w.path(id, inputFile), 9)) }, NothingLost, "/input.jsonl", 0},
		{"snapshot edited", false, func(w *world, id string) {
			w.edit(w.path(id, inputFile), func(b []byte) []byte { return []byte(strings.ToUpper(string(b))) })
		}, NothingLost, "/input.jsonl", 0},
		{"result edited", true, func(w *world, id string) {
			w.edit(outbox(w, "x.output.jsonl"), func(b []byte) []byte { return append(b, '\n') })
		}, PublishedAs, "/x.output.jsonl", 3},
		{"batch object edited", true, func(w *world, id string) { must(w, os.Truncate(outbox(w, "x.batch.json"), 1)) }, PublishedAs, "/x.batch.json", 1},
		{"result is a folder", true, func(w *world, id string) {
			must(w, errors.Join(os.Remove(outbox(w, "x.errors.jsonl")), os.Mkdir(outbox(w, "x.errors.jsonl"), 0o755)))
		}, PublishedAs, "/x.errors.jsonl", 0},
		{"result taken away", true, func(w *world, id string) { must(w, os.Remove(outbox(w, "x.errors.jsonl"))) }, "", "/x.errors.jsonl", 0},
		{"temporary file in the outbox", true, func(w *world, id string) {
			must(w, os.WriteFile(outbox(w, TempPrefix+id+SuffixOutput+".tmp"), nil, 0o644))
		}, NoLeftovers, SuffixOutput + ".tmp", 0},
		{"temporary file in the state", true, func(w *world, id string) {
			must(w, os.WriteFile(w.path(id, "stoker-1.tmp"), nil, 0o600))
		}, NoLeftovers, "stoker-1.tmp", 0},
		{"publish frame gone", true, func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { return f[:3] })
		}, PublishedAs, "/journal", 0},
		{"other records than published", true, func(w *world, id string) {
			w.rewriteJournal(id, func(f []journal.Frame) []journal.Frame { f[1].Payload = second.Payload; f[1].Seq = 1; return f })
		}, PublishedAs, "/journal", 0},
		{"archived and claimed", true, func(w *world, id string) { must(w, w.SetArchived(id)) }, InputOnce, "/x.jsonl", 0},
		{"claim taken away", false, func(w *world, id string) {
			must(w, os.RemoveAll(filepath.Join(w.folders().Inbox, ".processing", w.Instance(), id)))
		}, "", "/x.jsonl", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, fastDir(t))
			defer w.Close()
			second.Seq = 1
			id := w.admit(w.drop("x.jsonl", lines(2)+`{"custom_id":"r2"}`+"\n")).ID
			if test.ended {
				w.finish(id, life{inputOrder: true})
			} else {
				b := w.open(id)
				w.record(b, 0, "a")
				w.record(b, 1, "b")
				w.commit(b)
				must(t, b.Close())
			}
			w.checkClean()
			test.damage(w, id)
			report := w.verify()
			for _, f := range report.Findings {
				if f.Batch == id && f.Invariant == test.want && f.Note == (test.want == "") && strings.HasSuffix(f.File, test.file) && f.Line == test.line {
					if report.Broken() != (test.want != "") {
						t.Errorf("broken: %v", report.Broken())
					}
					return
				}
			}
			t.Errorf("found %+v", report.Findings)
		})
	}
}

// However a journal is damaged, verify reports and does not panic; without damage it is silent.
func TestVerifySurvivesAnyDamage(t *testing.T) {
	w := newWorld(t, fastDir(t))
	defer w.Close()
	id := w.admitLines(2)
	w.finish(id, life{inputOrder: true})
	for _, name := range []string{journalFile, indexFile, metaFile, inputFile} {
		path := w.path(id, name)
		whole, err := os.ReadFile(path)
		must(t, err)
		for at := 0; at < len(whole); at += 3 {
			for _, content := range [][]byte{flip(whole, at), whole[:at]} {
				must(t, os.WriteFile(path, content, 0o600))
				if report := w.verify(); len(report.Findings) == 0 {
					t.Errorf("%s damaged at %d: nothing found", name, at)
				}
			}
		}
		must(t, os.WriteFile(path, whole, 0o600))
	}
	w.checkClean()
}

// A bit that flips in the snapshot of a compressed input changes no request unseen: the line does not run, and verify names
// it.
func TestSnapshotOfACompressedInput(t *testing.T) {
	w := openWorld(t)
	long := `{"custom_id":"long","prompt":"` + strings.Repeat("x", 2<<20) + `"}` + "\n" // over max_line: known by its head
	id := w.admit(w.drop("x.jsonl.gz", gzipped(t, lines(2)+long))).ID
	w.checkClean()
	for at, line := range map[int]int64{5: 1, len(lines(1)) + 5: 2, len(lines(2)) + 5: 3} {
		w.edit(w.path(id, inputFile), func(b []byte) []byte { return flip(b, at) })
		b := w.open(id)
		if _, err := b.Request(uint32(line - 1)); !errors.Is(err, errDamagedLine) {
			t.Errorf("line %d: %v", line, err)
		}
		must(t, b.Close())
		if f := w.verify().Findings; len(f) != 1 || f[0].Invariant != NothingLost || f[0].Line != line || f[0].File != w.path(id, inputFile) {
			t.Errorf("line %d: found %+v", line, f)
		}
		w.edit(w.path(id, inputFile), func(b []byte) []byte { return flip(b, at) })
	}
	w.checkClean()
}

func TestVerifyTellsNotEverything(t *testing.T) {
	w := newWorld(t, fastDir(t))
	defer w.Close()
	id := w.admitLines(3 * maxFindings)
	b := w.open(id)
	w.answerAll(b)
	w.commit(b)
	must(t, b.Close())
	must(t, os.Truncate(w.path(id, journalFile), journal.Start))
	report := w.verify()
	last := report.Findings[len(report.Findings)-1]
	if len(report.Findings) > 2*maxFindings || !strings.Contains(last.Message, "more like these") {
		t.Errorf("%d findings, the last one %+v", len(report.Findings), last)
	}
}

func TestVerifyOne(t *testing.T) {
	w := openWorld(t)
	id := w.admitLines(2)
	w.admit(w.drop("y.jsonl", lines(3)))
	report, err := w.Verify(context.Background(), id, w.folders())
	must(t, err)
	if report.Batches != 1 || report.Requests != 2 {
		t.Errorf("report %+v", report)
	}
	if _, err := w.Verify(context.Background(), NewID(), w.folders()); !errors.Is(err, ErrNotFound) {
		t.Errorf("unknown batch: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := w.Verify(ctx, "", w.folders()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// Verify is for the state that nobody else holds open, too, and changes nothing in it.
func TestVerifyReadOnly(t *testing.T) {
	w := openWorld(t)
	id := w.admitLines(2)
	w.finish(id, life{})
	must(t, w.Close())
	s, err := OpenReadOnly(w.Dir())
	must(t, err)
	w.Store = s
	w.checkClean()
	if err := s.db.Update(func(*bbolt.Tx) error { return nil }); err == nil {
		t.Error("the state can be written")
	}
}
