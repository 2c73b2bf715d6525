package disk

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

const (
	sector    = 512
	smallDisk = 16 * sector
)

func contents(r *rack, disk int) []byte {
	b := make([]byte, smallDisk)
	r.read(disk, b, 0)
	return b
}

// TestCut compares each sector of what a cut leaves with what a machine may find there: what was flushed last, or
// anything that was written to it since.
func TestCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := newRack(sector, []int64{smallDisk, smallDisk})
		r.write(0, bytes.Repeat([]byte{0xff}, smallDisk), 0)
		r.settle()
		type possible map[byte]bool
		may := [2][smallDisk / sector]possible{}
		for i := range may[0] {
			may[0][i], may[1][i] = possible{0xff: true}, possible{0: true}
		}
		now := [2][smallDisk / sector]byte{}
		for i := range now[0] {
			now[0][i] = 0xff
		}
		events := rapid.IntRange(0, 30).Draw(t, "events")
		for n := range events {
			disk := rapid.IntRange(0, 1).Draw(t, "disk")
			if rapid.IntRange(0, 3).Draw(t, "flush") == 0 {
				r.flush(disk)
				for i, b := range now[disk] {
					may[disk][i] = possible{b: true}
				}
				continue
			}
			first := rapid.IntRange(0, len(now[0])-1).Draw(t, "sector")
			count := rapid.IntRange(1, len(now[0])-first).Draw(t, "count")
			r.write(disk, bytes.Repeat([]byte{byte(n + 1)}, count*sector), int64(first*sector))
			for i := first; i < first+count; i++ {
				now[disk][i] = byte(n + 1)
				may[disk][i][byte(n+1)] = true
			}
		}
		seed := rapid.Uint64().Draw(t, "seed")
		once, twice := r.fork(), r.fork()
		if err := once.cut(events/2, seed); err != nil { // an earlier cut must not show in a later one
			t.Fatal(err)
		}
		once.write(0, make([]byte, sector), 0)
		for _, f := range []*rack{once, twice} {
			if err := f.cut(events, seed); err != nil {
				t.Fatal(err)
			}
		}
		for disk := range may {
			got := contents(once, disk)
			if diff := cmp.Diff(got, contents(twice, disk)); diff != "" {
				t.Fatalf("the same cut twice (-once +twice):\n%s", diff)
			}
			for i, allowed := range may[disk] {
				if s := got[i*sector : (i+1)*sector]; !allowed[s[0]] || !bytes.Equal(s, bytes.Repeat(s[:1], sector)) {
					t.Fatalf("disk %d, sector %d is %v, may be one of %v", disk, i, s, allowed)
				}
			}
		}
	})
}

func TestCutsComeInOrder(t *testing.T) {
	r := newRack(sector, []int64{smallDisk})
	r.flush(0)
	r.flush(0)
	f := r.fork()
	for _, n := range []int{1, 2, 2} {
		if err := f.cut(n, 0); err != nil {
			t.Error(err)
		}
	}
	if err := f.cut(1, 0); err == nil {
		t.Error("a cut before the last one was made")
	}
	if err := f.cut(3, 0); err == nil {
		t.Error("a cut behind the log's end was made")
	}
}
