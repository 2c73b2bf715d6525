package store

import (
	"path/filepath"
	"testing"

	"pgregory.net/rapid"
)

// Whatever the order in which requests are handed out, each life knows which of them it runs again.
func TestHandedOutInAnyOrder(t *testing.T) {
	dir := fastDir(t)
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, filepath.Join(dir, NewID()))
		defer w.Close()
		const requests = 40
		id := w.admitLines(requests)
		given, recorded := map[uint32]bool{}, map[uint32]bool{}
		again := uint32(0)
		for range rapid.IntRange(1, 4).Draw(t, "lives") {
			b := w.open(id)
			pending := uint32(0)
			for seq := range given {
				if !recorded[seq] {
					pending++
				}
			}
			if b.Recovered.Redone != pending {
				t.Fatalf("%d requests are to run again, want %d", b.Recovered.Redone, pending)
			}
			if left := b.Left(); left < requests-len(recorded) {
				t.Fatalf("%d requests are left, want at least %d", left, requests-len(recorded))
			}
			for range rapid.IntRange(0, 10).Draw(t, "in order") {
				handOutNext(t, b, given, &again)
			}
			rest, err := b.Rest(1 << 20)
			must(t, err)
			for _, seq := range rapid.Permutation(rest).Draw(t, "order")[:rapid.IntRange(0, len(rest)).Draw(t, "out of turn")] {
				handOut(b, seq, given, &again)
			}
			for seq := range uint32(requests) {
				if given[seq] && !recorded[seq] && rapid.Bool().Draw(t, "answered") {
					w.record(b, seq, "a")
					recorded[seq] = true
				}
			}
			if rapid.Bool().Draw(t, "checkpoint") {
				w.commit(b)
			}
			must(t, b.Flush())
			if b.Progress().Redone != again {
				t.Fatalf("%d requests count as run again, want %d", b.Progress().Redone, again)
			}
			w.commit(b) // the count is a checkpoint's; which requests they were is the journal's, too
			must(t, b.Close())
		}
		w.finish(id, life{inputOrder: true})
		w.checkResults("x", requests, true)
		if report := w.verify(); report.Broken() {
			t.Fatalf("verify found %+v", report.Findings)
		}
	})
}

func handOutNext(t *rapid.T, b *Batch, given map[uint32]bool, again *uint32) {
	if seq, ok := b.Next(); ok {
		handOut(b, seq, given, again)
	}
}

// handOut is the model of HandOut, too. A request is handed out once in a life.
func handOut(b *Batch, seq uint32, given map[uint32]bool, again *uint32) {
	if given[seq] {
		*again++
	}
	given[seq] = true
	b.HandOut(seq)
}

// The journal alone tells what was handed out, if the process dies before a checkpoint.
func TestHandedOutWithoutCheckpoint(t *testing.T) {
	w := openWorld(t)
	id := w.admitLines(10)
	b := w.open(id)
	rest, err := b.Rest(1 << 20)
	must(t, err)
	for _, i := range []int{9, 3, 0, 7} {
		b.HandOut(rest[i])
	}
	must(t, b.Flush())
	w.record(b, 9, "a")
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

func TestRestTakesNoMoreThanItMay(t *testing.T) {
	w := openWorld(t)
	b := w.open(w.admitLines(10))
	defer b.Close()
	b.Next()
	if rest, err := b.Rest(9); err != nil || rest != nil {
		t.Errorf("took %v of longer lines, %v", rest, err)
	}
	if rest, err := b.Rest(1 << 20); err != nil || len(rest) != 9 || rest[0] != 1 {
		t.Errorf("took %v, %v", rest, err)
	}
	if seq, ok := b.Next(); ok || b.Left() != 0 {
		t.Errorf("then there is still %d", seq)
	}
}
