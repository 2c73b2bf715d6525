package store

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stoker/store/batchfile"
	"stoker/store/durable"
	"stoker/store/journal"
)

// fastDir is a folder in memory, where there is one: syncs cost nothing there. It is gone with the test.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "stoker-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// resultLines returns the lines of a result file.
func (w *world) resultLines(name, suffix string) []string {
	w.Helper()
	b, err := os.ReadFile(filepath.Join(w.folders().Outbox, name+suffix))
	must(w, err)
	return slices.Collect(strings.Lines(string(b)))
}

// checkResults checks that each of n requests stands once in one of the result files, in input order if it is wanted.
func (w *world) checkResults(name string, n int, inputOrder bool) {
	w.Helper()
	seen := map[string]bool{}
	for _, suffix := range []string{SuffixOutput, SuffixErrors} {
		if _, err := os.Stat(filepath.Join(w.folders().Outbox, name+suffix)); err != nil && suffix == SuffixErrors {
			continue // there is none without an error
		}
		last := -1
		for _, line := range w.resultLines(name, suffix) {
			id, _, ok := batchfile.ReadRef([]byte(line))
			if !ok || seen[id] {
				w.Fatalf("%s%s: %q is no result, or a second one", name, suffix, line)
			}
			seen[id] = true
			var number int
			fmt.Sscanf(id, "r%d", &number)
			if inputOrder && number < last {
				w.Fatalf("%s%s: request %d stands behind %d", name, suffix, number, last)
			}
			last = number
		}
	}
	if len(seen) != n {
		w.Fatalf("%d of %d requests are published", len(seen), n)
	}
}

// TestCrashAtEveryStage copies the folders between any two steps of a batch's life, and goes on from the copy.
func TestCrashAtEveryStage(t *testing.T) {
	for _, inputOrder := range []bool{true, false} {
		t.Run(fmt.Sprint("input order ", inputOrder), func(t *testing.T) {
			w := newWorld(t, fastDir(t))
			defer w.Close()
			text := lines(20) + "{broken\n" + lines(1) // 20 good ones, a bad one, a duplicate
			id := w.admit(w.drop("x.jsonl", text)).ID
			stages := 0
			w.finish(id, life{inputOrder: inputOrder, stage: func(stage string) {
				stages++
				after := w.crash(t, fastDir(t))
				defer after.Close()
				after.checkCrash(id, inputOrder, stage)
			}})
			if stages != 9 {
				t.Errorf("%d stages were reached", stages)
			}
			w.checkClean()
		})
	}
}

func (w *world) checkCrash(id string, inputOrder bool, stage string) {
	w.Helper()
	if report := w.verify(); report.Broken() {
		w.Errorf("%s: verify found %+v", stage, report.Findings)
	}
	r, err := w.Get(id)
	must(w, err)
	if !r.State.Ended() {
		w.finish(id, life{inputOrder: inputOrder})
	}
	w.checkClean()
	if n := len(w.resultLines("x", SuffixOutput)); n != 20 {
		w.Errorf("%s: %d answers", stage, n)
	}
	if n := len(w.resultLines("x", SuffixErrors)); n != 2 {
		w.Errorf("%s: %d errors", stage, n)
	}
}

func TestRecordsOfAnEndedBatch(t *testing.T) {
	w := openWorld(t)
	id := w.admitLines(3)
	b := w.open(id)
	for _, seq := range []uint32{2, 0, 1} {
		w.record(b, seq, "a")
	}
	w.commit(b)
	results, err := b.Results()
	must(t, err)
	var order []uint32
	for _, inputOrder := range []bool{true, false} {
		must(t, results.Each(inputOrder, func(f journal.Frame) error {
			order = append(order, f.Seq)
			return nil
		}))
	}
	if want := []uint32{0, 1, 2, 2, 0, 1}; !slices.Equal(order, want) {
		t.Errorf("in input order and as they finished: %v, want %v", order, want)
	}
	want := Totals{Completed: 3, PromptTokens: 9, CompletionTokens: 6, FinishReasons: map[string]int64{"stop": 3}, Errors: map[ErrorKey]int64{}}
	if diff := cmp.Diff(want, results.Totals); diff != "" {
		t.Errorf("totals (-want +got):\n%s", diff)
	}
	must(t, results.Close())
	must(t, b.Close())
	w.finish(id, life{})
	ended, err := w.Get(id)
	must(t, err)
	if ended.State != Completed || ended.PublishedAs != "x" || ended.EndedAt == 0 || len(ended.Engines) != 1 {
		t.Errorf("record %+v", ended)
	}
}

// Each step of the end may be repeated by a process that does not know how far the last one came.
func TestEndIsIdempotent(t *testing.T) {
	w := openWorld(t)
	id := w.admitLines(2)
	b := w.open(id)
	defer b.Close()
	w.answerAll(b)
	w.commit(b)
	if err := b.End(); err == nil {
		t.Error("ended without a publication")
	}
	must(t, b.Finalize())
	begun := b.Record.FinalizingAt
	must(t, b.Finalize())
	w.publish(b, life{stage: func(string) {}})
	must(t, b.End())
	ended := *b.Record
	must(t, b.End())
	must(t, b.Finalize())
	if b.Record.State != Completed || b.Record.EndedAt != ended.EndedAt || b.Record.FinalizingAt != begun {
		t.Errorf("record %+v became %+v", ended, b.Record)
	}
	w.checkClean()
}

// damageRecord makes a request's record in the journal invalid.
func (w *world) damageRecord(id string, seq uint32) {
	w.Helper()
	path := w.path(id, journalFile)
	j, err := journal.Open(durable.Local{}, path, os.O_RDONLY)
	must(w, err)
	defer j.Close()
	last := int64(0)
	_, err = j.Scan(context.Background(), journal.Start, j.Size(), true, func(at int64, f journal.Frame) error {
		if f.Kind.IsResult() && f.Seq == seq {
			last = at + f.Size() - 1
		}
		return nil
	})
	must(w, err)
	w.edit(path, func(b []byte) []byte { return flip(b, int(last)) })
}

// Records that are damaged when the batch is to be published run again, also across a restart.
func TestDamagedRecordsRunAgain(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			w := openWorld(t)
			id := w.admitLines(5)
			b := w.open(id)
			w.answerAll(b)
			w.commit(b)
			must(t, b.Finalize())
			must(t, b.Publish(&Publication{Name: "x", State: Completed}))
			w.damageRecord(id, 1)
			w.damageRecord(id, 3)
			if _, err := b.Results(); err == nil {
				t.Fatal("damage was not noticed")
			}
			must(t, b.Reopen())
			if p := b.Progress(); p.Records() != 3 || p.Redone != 2 || !slices.Equal(p.redo, []uint32{1, 3}) || p.CompletionTokens != 6 {
				t.Errorf("progress %d records, %d redone, %v run again", p.Records(), p.Redone, p.redo)
			}
			if restart {
				w.commit(b)
				must(t, b.Close())
				b = w.open(id)
				if b.Progress().Redone != 2 {
					t.Errorf("%d redone after the restart", b.Progress().Redone)
				}
			}
			seq, ok := b.Next()
			if !ok || seq != 1 {
				t.Fatalf("next is %d, %v", seq, ok)
			}
			w.record(b, seq, "again")
			w.answerAll(b)
			if b.Publication() != nil {
				t.Error("what was published before the redo still counts")
			}
			must(t, b.Close())
			w.finish(id, life{inputOrder: true})
			w.checkResults("x", 5, true)
			if report := w.verify(); report.Broken() {
				t.Errorf("verify found %+v", report.Findings)
			}
		})
	}
}

// A checkpoint that is of no use costs a scan of the journal, nothing else.
func TestUselessCheckpoints(t *testing.T) {
	for _, test := range []struct {
		name   string
		damage func(w *world, id string)
		left   uint32 // records
	}{
		{"damaged", func(w *world, id string) { w.putProgress(id, []byte("?")) }, 6},
		{"damaged, and the journal, too", func(w *world, id string) {
			w.putProgress(id, nil)
			w.damageRecord(id, 2)
		}, 5},
		{"ahead of the journal", func(w *world, id string) {
			w.edit(w.path(id, journalFile), func(b []byte) []byte { return b[:len(b)-5] })
		}, 5},
		{"of a journal that is gone", func(w *world, id string) {
			must(w, os.WriteFile(w.path(id, journalFile), nil, 0o600))
		}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := openWorld(t)
			id := w.admitLines(10)
			b := w.open(id)
			for seq := range uint32(5) {
				w.record(b, seq, "first")
			}
			w.commit(b) // which notes the engine, behind what it answered
			w.record(b, 5, "first")
			w.commit(b)
			must(t, b.Close())
			test.damage(w, id)
			if _, err := w.Progress(id); err != nil {
				t.Errorf("a damaged checkpoint stops who only looks: %v", err)
			}
			b = w.open(id)
			if got := b.Progress().Records(); got != test.left || !b.Recovered.Rescanned {
				t.Errorf("%d records, want %d; %+v", got, test.left, b.Recovered)
			}
			must(t, b.Close())
			b = w.open(id)
			if b.Recovered.Rescanned {
				t.Error("the next start reads the whole journal again")
			}
			must(t, b.Close())
			w.finish(id, life{inputOrder: true})
			w.checkResults("x", 10, true)
			if report := w.verify(); report.Broken() {
				t.Errorf("verify found %+v", report.Findings)
			}
		})
	}
}

func TestBatchRefusesWhatItHasNot(t *testing.T) {
	w := openWorld(t)
	b := w.open(w.admitLines(2))
	defer b.Close()
	if _, err := b.Append(journal.Frame{Kind: journal.KindOutput, Seq: 2}); err == nil {
		t.Error("took a result of a request that there is not")
	}
	w.record(b, 0, "a")
	if fresh, err := b.Append(journal.Frame{Kind: journal.KindError, Seq: 0}); fresh || err != nil {
		t.Errorf("a second result: fresh %v, %v", fresh, err)
	}
}

func TestSuspectsAreRemembered(t *testing.T) {
	w := openWorld(t)
	id := w.admitLines(3)
	b := w.open(id)
	for deaths := range uint16(2) {
		_, err := b.Append(journal.Frame{Kind: journal.KindSuspect, Seq: 1, Status: deaths + 1})
		must(t, err)
	}
	w.commit(b)
	must(t, b.Close())
	b = w.open(id)
	defer b.Close()
	if b.Deaths(1) != 2 || b.Deaths(0) != 0 {
		t.Errorf("deaths %d and %d", b.Deaths(1), b.Deaths(0))
	}
}

// The window bounds how far requests are handed out ahead of the oldest one without a record.
func TestWindowIsNotOverrun(t *testing.T) {
	w := newWorld(t, fastDir(t))
	defer w.Close()
	b := w.open(w.admitLines(WindowSize + 2))
	defer b.Close()
	handedOut := 0
	for _, ok := b.Next(); ok; _, ok = b.Next() {
		handedOut++
	}
	if handedOut != WindowSize {
		t.Errorf("%d requests were handed out", handedOut)
	}
	w.record(b, 0, "a")
	if seq, ok := b.Next(); !ok || seq != WindowSize {
		t.Errorf("then %d, %v", seq, ok)
	}
}
