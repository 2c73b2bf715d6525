package store

import (
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// Whatever the order in which requests are handed out, and whatever of the checkpoints is there, each life knows which of them
// it runs again. The journal of all lives tells.
func TestHandedOutInAnyOrder(t *testing.T) {
	dir := fastDir(t)
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, filepath.Join(dir, NewID()))
		defer w.Close()
		requests := rapid.IntRange(1, 200).Draw(t, "requests")
		id := w.admitLines(requests)
		l := &lives{given: map[uint32]bool{}, recorded: map[uint32]bool{}}
		for range rapid.IntRange(1, 5).Draw(t, "lives") {
			b := w.open(id)
			l.again = b.Progress().Redone // what no checkpoint has is forgotten
			l.live(t, w, b)
			must(t, b.Close())
			if rapid.IntRange(0, 3).Draw(t, "damage") == 0 {
				w.putProgress(id, []byte("?"))
			}
		}
		w.finish(id, life{inputOrder: true})
		w.checkResults("x", requests, true)
		if report := w.verify(); report.Broken() {
			t.Fatalf("verify found %+v", report.Findings)
		}
	})
}

// lives is the model of what was handed out and recorded.
type lives struct {
	given, recorded map[uint32]bool
	again           uint32
}

// live hands out some requests in input order and some of the rest in any other, and records some answers.
func (l *lives) live(t *rapid.T, w *world, b *Batch) {
	if pending := uint32(len(l.given) - len(l.recorded)); b.Recovered.Redone != pending {
		t.Fatalf("%d requests are to run again, want %d", b.Recovered.Redone, pending)
	}
	if left := b.Left(); left < int(b.Meta.Requests)-len(l.recorded) {
		t.Fatalf("%d requests are left, want at least %d", left, int(b.Meta.Requests)-len(l.recorded))
	}
	for range rapid.IntRange(0, 50).Draw(t, "in order") {
		if seq, ok := b.Next(); ok {
			l.handOut(t, w, b, seq)
		}
	}
	rest := b.Rest()
	for _, seq := range rapid.Permutation(rest).Draw(t, "order")[:rapid.IntRange(0, len(rest)).Draw(t, "out of turn")] {
		l.handOut(t, w, b, seq)
	}
	must(t, b.Flush())
	if rapid.Bool().Draw(t, "last checkpoint") {
		w.commit(b)
	}
	if b.Progress().Redone != l.again {
		t.Fatalf("%d requests count as run again, want %d", b.Progress().Redone, l.again)
	}
}

// handOut hands a request out, which happens once in a life, and does some of what may follow.
func (l *lives) handOut(t *rapid.T, w *world, b *Batch, seq uint32) {
	if again := b.HandOut(seq); again != l.given[seq] {
		t.Fatalf("request %d runs again: %v, want %v", seq, again, l.given[seq])
	}
	if l.given[seq] {
		l.again++
	}
	l.given[seq] = true
	switch rapid.IntRange(0, 5).Draw(t, "then") {
	case 0:
		must(t, b.Flush())
	case 1:
		w.commit(b)
	case 2, 3:
		w.record(b, seq, "a")
		l.recorded[seq] = true
	}
}

// The journal alone tells what was handed out, if the process dies before a checkpoint.
func TestHandedOutWithoutCheckpoint(t *testing.T) {
	w := openWorld(t)
	id := w.admitLines(10)
	b := w.open(id)
	rest := b.Rest()
	for _, i := range []int{9, 3, 7} {
		b.HandOut(rest[i])
	}
	must(t, b.Flush())
	must(t, b.Close())
	b = w.open(id)
	defer b.Close()
	if got := b.Recovered.Redone; got != 3 {
		t.Errorf("%d requests are to run again, want 3", got)
	}
	for seq, ok := b.Next(); ok; seq, ok = b.Next() {
		b.HandOut(seq)
	}
	if got := b.Progress().Redone; got != 3 {
		t.Errorf("%d ran again, want 3", got)
	}
}

// Damaged results that run again in a next life are counted once: when they were found.
func TestDamagedResultsCountOnce(t *testing.T) {
	w := openWorld(t)
	id := w.admitLines(3)
	b := w.open(id)
	w.answerAll(b)
	w.commit(b)
	b.progress.Completed, b.progress.redo, b.progress.Redone = 2, []uint32{1}, 1
	w.commit(b)
	must(t, b.Close())
	b = w.open(id)
	defer b.Close()
	for seq, ok := b.Next(); ok; seq, ok = b.Next() {
		b.HandOut(seq)
	}
	if got := b.Progress().Redone; got != 1 {
		t.Errorf("%d ran again, want 1", got)
	}
}

func TestRest(t *testing.T) {
	w := openWorld(t)
	b := w.open(w.admitLines(10))
	defer b.Close()
	whole, err := b.LeftBytes()
	if err != nil || whole != b.Meta.Input.Snapshot || b.Left() != 10 {
		t.Errorf("%d requests of %d bytes are left, %v", b.Left(), whole, err)
	}
	b.Next()
	b.again = []uint32{0} // found damaged
	if n, err := b.LeftBytes(); err != nil || n <= whole-whole/5 || n >= whole || b.Left() != 10 {
		t.Errorf("%d requests of %d bytes of %d are left, %v", b.Left(), n, whole, err)
	}
	if rest := b.Rest(); len(rest) != 10 || rest[0] != 0 || rest[9] != 9 {
		t.Errorf("took %v", rest)
	}
	if seq, ok := b.Next(); ok || b.Left() != 0 || b.Rest() != nil {
		t.Errorf("then there is still %d", seq)
	}
}
