package inbox

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stoker/store"
	"stoker/store/layout"
)

// Two duplicates whose names are so long that their notes' names are cut: each has a note of its own, and the inbox
// goes on.
func TestDuplicatesWithLongNames(t *testing.T) {
	long := strings.Repeat("x", 245) + ".jsonl"
	bubble(t, func(r *rig) {
		r.write(long, line)
		r.run()
		r.pass(5 * time.Second)
		for range 3 {
			r.drop(long)
		}
		r.write("other.jsonl", line+line)
		r.pass(5 * time.Second)
		r.want(long, "other.jsonl")
		stem := long[:235]
		r.wantTree("archive",
			"duplicate/"+stem+".duplicate.json", "duplicate/"+long,
			"duplicate/"+stem[:233]+"~2.duplicate.json", "duplicate/"+stem[:233]+"~2.jsonl",
			"duplicate/"+stem[:233]+"~3.duplicate.json", "duplicate/"+stem[:233]+"~3.jsonl")
	})
}

// Whoever may write below the inbox cannot have results written elsewhere by what he puts beside a claim.
func TestClaimOfNoQueue(t *testing.T) {
	bubble(t, func(r *rig) {
		root := r.processing()
		for _, queue := range []string{"..", "../../elsewhere", "q/r", ".hidden", "\xff", "q\x00"} {
			id := store.NewID()
			r.write(filepath.Join(root, id, "x.jsonl"), line)
			r.write(filepath.Join(root, id, queueFile), queue)
		}
		r.run()
		r.pass(time.Minute)
		r.want()
	})
}

// FuzzNumbered holds that a file that is moved aside finds a name: one that fits, is another for each number, as its
// note's is, and is that of a batch file still.
func FuzzNumbered(f *testing.F) {
	for _, name := range []string{
		"x.jsonl", "x.JSONL.gz", "x~2.jsonl", "a.jsonl.jsonl", strings.Repeat("é", 124) + ".jsonl", strings.Repeat("x", 245) + ".jsonl.zst", "\xff.jsonl",
		strings.Repeat("\x80", 249) + ".jsonl", "İ.jsonl",
	} {
		f.Add(name, uint8(2))
	}
	f.Fuzz(func(t *testing.T, name string, n uint8) {
		if len(name) > 255 || strings.ContainsAny(name, "/\x00") {
			return // no name of a file
		}
		IsIgnored(name)
		layout.IsQueue(name)
		if stem, suffixes := splitName(name); stem+suffixes != name {
			t.Fatalf("%q is cut into %q and %q", name, stem, suffixes)
		}
		_, compression, ok := store.SplitInputName(name)
		if !ok {
			return
		}
		notes := map[string]int{}
		for _, n := range []int{1, int(n) + 2, int(n) + 3, 9999} {
			got := numbered(name, n)
			_, c, ok := store.SplitInputName(got)
			if len(got) > 255 || !ok || c != compression || strings.Contains(got, "/") {
				t.Fatalf("%q, %d: %q of %d bytes", name, n, got, len(got))
			}
			note := filepath.Base(noteBeside(got))
			if before, taken := notes[note]; taken && before != n || len(note)+len(".")+len(".tmp") > 255 {
				t.Fatalf("%q, %d: the note is %q, as that of %d", name, n, note, before)
			}
			notes[note] = n
		}
	})
}
