package store

import (
	"errors"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"stoker/store/journal"
)

// progressModel is Progress as a table with a place for each request.
type progressModel struct {
	has            []bool
	low, end, size uint32 // the lowest without a record, one past the highest with one, how many have one
}

func (m *progressModel) add(seq uint32) {
	if !m.has[seq] {
		m.size++
	}
	m.has[seq] = true
	m.end = max(m.end, seq+1)
	for m.has[m.low] {
		m.low++
	}
}

// TestProgressIsASet holds Progress against a table, over more requests than the window holds.
func TestProgressIsASet(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, m := &Progress{}, &progressModel{has: make([]bool, 8*WindowSize)}
		count := func(seq uint32) {
			fresh, err := p.count(journal.Frame{Kind: journal.KindOutput, Seq: seq, CompletionTokens: 1})
			if fresh == m.has[seq] || err != nil {
				t.Fatalf("count of %d: fresh %v, %v", seq, fresh, err)
			}
			m.add(seq)
		}
		t.Repeat(map[string]func(*rapid.T){
			"near": func(t *rapid.T) { count(m.low + rapid.Uint32Range(0, 200).Draw(t, "ahead")) },
			"far":  func(t *rapid.T) { count(m.low + rapid.Uint32Range(0, WindowSize-1).Draw(t, "ahead")) },
			"run": func(t *rapid.T) {
				if m.low > 6*WindowSize {
					t.Skip("the table is full")
				}
				from := m.low
				for n := range rapid.Uint32Range(1, WindowSize/4).Draw(t, "length") {
					count(from + n)
				}
			},
			"too far": func(t *rapid.T) {
				if _, err := p.count(journal.Frame{Kind: journal.KindOutput, Seq: m.low + WindowSize}); err == nil {
					t.Fatal("counted beyond the window")
				}
			},
			"": func(t *rapid.T) {
				decoded := roundTrip(t, p)
				if p.done.low != m.low || p.Records() != m.size || p.handed.count() < m.size || p.CompletionTokens != uint64(m.size) {
					t.Fatalf("window at %d of %d, %d records of %d", p.done.low, m.low, p.Records(), m.size)
				}
				for seq := uint32(0); seq < m.low+WindowSize; seq += 1 + (m.low+WindowSize)/997 {
					if p.Has(seq) != m.has[seq] || decoded.Has(seq) != m.has[seq] {
						t.Fatalf("has %d: %v, decoded %v, want %v", seq, p.Has(seq), decoded.Has(seq), m.has[seq])
					}
				}
			},
		})
	})
}

func roundTrip(t rapid.TB, p *Progress) *Progress {
	t.Helper()
	decoded, err := decodeProgress(p.encode())
	must(t, err)
	if !reflect.DeepEqual(p, decoded) { // cmp takes its time for the bitmap
		t.Fatalf("%+v became %+v", p, decoded)
	}
	return decoded
}

func TestRedoneRequests(t *testing.T) {
	p := &Progress{}
	for seq := range uint32(10) {
		p.count(journal.Frame{Kind: journal.KindOutput, Seq: seq})
	}
	p.redo, p.Completed = []uint32{2, 7}, 8
	roundTrip(t, p)
	if p.done.low != 10 || !p.Has(1) || p.Has(2) || !p.Has(3) || p.Has(7) {
		t.Fatalf("window at %d, has 2: %v", p.done.low, p.Has(2))
	}
	for _, seq := range []uint32{7, 2} {
		if fresh, err := p.count(journal.Frame{Kind: journal.KindError, Seq: seq}); !fresh || err != nil {
			t.Fatalf("count of %d: %v, %v", seq, fresh, err)
		}
		if fresh, _ := p.count(journal.Frame{Kind: journal.KindError, Seq: seq}); fresh {
			t.Fatalf("%d counted twice", seq)
		}
	}
	if p.done.low != 10 || len(p.redo) != 0 || p.Records() != 10 || p.Failed != 2 {
		t.Fatalf("after all: window at %d, %d records, %v run again", p.done.low, p.Records(), p.redo)
	}
}

// Any set of records can be entered, also one whose holes lie further apart than the window is wide.
func TestSetRecords(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		end := rapid.Uint32Range(0, WindowSize+1000).Draw(t, "end")
		missing := map[uint32]bool{}
		for range rapid.IntRange(0, 10).Draw(t, "holes") {
			missing[rapid.Uint32Range(0, WindowSize+1000).Draw(t, "hole")] = true
		}
		p := &Progress{}
		p.setRecords(func(seq uint32) bool { return !missing[seq] }, end)
		roundTrip(t, p)
		for seq := range end {
			if p.Has(seq) == missing[seq] {
				t.Fatalf("has %d: %v", seq, p.Has(seq))
			}
		}
		if p.Has(end) {
			t.Fatalf("has %d, which lies behind the end", end)
		}
	})
}

func TestDamagedProgress(t *testing.T) {
	p := &Progress{Offset: 1234, Completed: 3, redo: []uint32{5, 6}}
	p.done.add(0)
	p.done.add(77)
	good := p.encode()
	for at := range good {
		if _, err := decodeProgress(flip(good, at)); !errors.Is(err, errProgress) {
			t.Errorf("flipped at %d: %v", at, err)
		}
		if _, err := decodeProgress(good[:at]); !errors.Is(err, errProgress) {
			t.Errorf("cut at %d: %v", at, err)
		}
	}
}
