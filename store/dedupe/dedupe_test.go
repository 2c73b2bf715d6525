package dedupe

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"stoker/store/durable"
)

// duplicate is one call of Duplicates' callback.
type duplicate struct{ Seq, First uint32 }

// find returns the duplicates among keys, hashed by hash, and checks the promises on what same is asked.
func find(t rapid.TB, f *Finder, keys []string, hash func(string) uint64) []duplicate {
	for seq, key := range keys {
		if err := f.Add(hash(key), uint32(seq)); err != nil {
			t.Fatal(err)
		}
	}
	var got []duplicate
	err := f.Duplicates(func(a, b uint32) (bool, error) {
		if hash(keys[a]) != hash(keys[b]) {
			t.Fatalf("asked about %q and %q, whose hashes differ", keys[a], keys[b])
		}
		return keys[a] == keys[b], nil
	}, func(seq, first uint32) error {
		got = append(got, duplicate{seq, first})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// wanted finds the duplicates with a map.
func wanted(keys []string) []duplicate {
	var want []duplicate
	first := map[string]uint32{}
	for seq, key := range keys {
		if f, repeated := first[key]; repeated {
			want = append(want, duplicate{uint32(seq), f})
		} else {
			first[key] = uint32(seq)
		}
	}
	return want
}

func spillTo(dir string) func() (File, error) {
	return func() (File, error) { return durable.Local{}.Scratch(dir) }
}

func TestFindsWhatAMapFinds(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, againstAMap(dir))
	checkEmpty(t, dir)
}

func FuzzFindsWhatAMapFinds(f *testing.F) {
	dir := f.TempDir()
	f.Fuzz(rapid.MakeFuzz(againstAMap(dir)))
}

// againstAMap holds a Finder against a map. Chunks are so small that most runs spill, and hashes so poor that different
// keys collide.
func againstAMap(dir string) func(*rapid.T) {
	return func(t *rapid.T) {
		keys := rapid.SliceOf(rapid.StringMatching(`[a-d]{0,3}`)).Draw(t, "keys")
		chunk := rapid.IntRange(1, 20).Draw(t, "chunk")
		buckets := rapid.Uint64Range(1, 100).Draw(t, "buckets")
		f := New(spillTo(dir), chunk)
		defer f.Close()
		got := find(t, f, keys, func(key string) uint64 { return f.Hash(key) % buckets })
		if diff := cmp.Diff(wanted(keys), got); diff != "" {
			t.Fatalf("duplicates (-want +got):\n%s", diff)
		}
	}
}

func TestManyRuns(t *testing.T) {
	dir := t.TempDir()
	f := New(spillTo(dir), 1000)
	var keys []string
	for i := range 50_000 {
		keys = append(keys, fmt.Sprint("request-", i*7919%49_000))
	}
	got := find(t, f, keys, f.Hash)
	checkEmpty(t, dir) // while the files are still in use
	if diff := cmp.Diff(wanted(keys), got); diff != "" {
		t.Errorf("duplicates (-want +got):\n%s", diff)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func TestNothing(t *testing.T) {
	f := New(spillTo(t.TempDir()), 0)
	defer f.Close()
	if got := find(t, f, nil, f.Hash); got != nil {
		t.Errorf("found %v", got)
	}
}

func TestErrorsEndTheSearch(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		same func(a, b uint32) (bool, error)
		each func(seq, first uint32) error
	}{
		{"same", func(a, b uint32) (bool, error) { return false, broken }, nil},
		{"each", func(a, b uint32) (bool, error) { return true, nil }, func(seq, first uint32) error { return broken }},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := New(spillTo(t.TempDir()), 1)
			defer f.Close()
			for seq := range uint32(3) {
				if err := f.Add(1, seq); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Duplicates(test.same, test.each); !errors.Is(err, broken) {
				t.Errorf("got %v, want the callback's error", err)
			}
		})
	}
}

func TestNoPlaceToSpill(t *testing.T) {
	f := New(spillTo(t.TempDir()+"/gone"), 1)
	defer f.Close()
	if err := f.Add(1, 1); err != nil {
		t.Fatal(err)
	}
	if err := f.Add(2, 2); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want the missing folder", err)
	}
}

// checkEmpty checks that dir shows no file: one with a name would be left behind by a crash.
func checkEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 0 {
		t.Errorf("left in %s: %v, %v", dir, left, err)
	}
}

func BenchmarkMillionKeys(b *testing.B) {
	keys := make([]string, 1_000_000)
	for i := range keys {
		keys[i] = fmt.Sprint("request-", i)
	}
	for _, chunk := range []int{DefaultChunk, 100_000} {
		b.Run(fmt.Sprint("chunk=", chunk), func(b *testing.B) {
			for b.Loop() {
				f := New(spillTo(b.TempDir()), chunk)
				for seq, key := range keys {
					if err := f.Add(f.Hash(key), uint32(seq)); err != nil {
						b.Fatal(err)
					}
				}
				err := f.Duplicates(func(a, c uint32) (bool, error) { return keys[a] == keys[c], nil }, nil)
				if err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
	}
}
