package bench

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// A load is the same bytes wherever it is made: figures of two machines are of the same work.
func TestLoadGolden(t *testing.T) {
	l := Load{Requests: 3, Files: 2, MeanTokens: 40, MaxTokens: 160, PromptWords: 5, Seed: 7}
	paths, err := write(l.files(), t.TempDir(), "m")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		got.WriteString(filepath.Base(path) + "\n" + string(text))
	}
	golden := filepath.Join("testdata", "load.golden")
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Every load has the requests that it says, in files that differ by one at most, with lengths in bounds; sorting or taking it
// in parts changes no request, and short ones ask the same.
func TestLoadHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := Load{
			Files: rapid.IntRange(1, 9).Draw(t, "files"), MeanTokens: rapid.IntRange(1, 50).Draw(t, "mean"),
			MaxTokens: rapid.SampledFrom([]int{0, minTokens, 30, 400}).Draw(t, "max"), PromptWords: 2, Seed: rapid.Uint64().Draw(t, "seed"),
		}
		l.Requests = l.Files + rapid.IntRange(0, 60).Draw(t, "more")
		if err := l.check(); err != nil {
			t.Fatal(err)
		}
		files := l.files()
		n := 0
		for _, f := range files {
			n += len(f)
			if len(f) != l.Requests/l.Files && len(f) != l.Requests/l.Files+1 {
				t.Errorf("a file of %d requests, of %d in %d files", len(f), l.Requests, l.Files)
			}
			for _, r := range f {
				if got := r.Body.MaxTokens; l.MaxTokens == 0 && got != l.MeanTokens || l.MaxTokens > 0 && (got < minTokens || got > l.MaxTokens) {
					t.Errorf("an answer of %d tokens", got)
				}
			}
		}
		if len(files) != l.Files || n != l.Requests {
			t.Errorf("%d requests in %d files", n, len(files))
		}
		sorted := l
		sorted.LongestFirst = true
		for i, f := range sorted.files() {
			if !slices.IsSortedFunc(f, func(a, b request) int { return b.Body.MaxTokens - a.Body.MaxTokens }) {
				t.Error("longest first is not sorted")
			}
			slices.SortStableFunc(files[i], func(a, b request) int { return b.Body.MaxTokens - a.Body.MaxTokens })
			if diff := cmp.Diff(files[i], f); diff != "" {
				t.Error(diff)
			}
		}
		parts := rapid.IntRange(1, 5).Draw(t, "parts")
		var together [][]request
		for i := range parts {
			together = append(together, take(files, Part{i + 1, parts})...)
		}
		if diff := cmp.Diff(files, together); diff != "" {
			t.Error(diff)
		}
	})
}

// Lengths are skewed as asked: the mean is near, and some are much longer.
func TestLengthsAreSkewed(t *testing.T) {
	files := Load{Requests: 4000, Files: 1, MeanTokens: 300, MaxTokens: 1200, PromptWords: 1, Seed: 3}.files()
	long := 0
	for _, r := range files[0] {
		if r.Body.MaxTokens > 900 {
			long++
		}
	}
	if mean := tokens(files) / 4000; mean < 280 || mean > 310 { // 295 is what cutting at 1,200 leaves
		t.Errorf("the mean is %d", mean)
	}
	if long < 120 || long > 280 { // e⁻³ is 5 %
		t.Errorf("%d of 4,000 are longer than three times the mean", long)
	}
}

// What warms up is a load that can be made, of as many requests, or enough of them, and a fraction of the tokens.
func TestShort(t *testing.T) {
	for _, s := range Scenarios() {
		short := s.Load.short(64)
		if err := short.check(); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		if a, b := tokens(short.files()), tokens(s.Load.files()); a*3 > b {
			t.Errorf("%s: %d tokens warm up for %d", s.Name, a, b)
		}
		if short.Files != s.Load.Files || short.Requests < min(s.Load.Requests, shortRequests) {
			t.Errorf("%s warms up with %+v", s.Name, short)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	ok := Load{Requests: 4, Files: 2, MeanTokens: 10, MaxTokens: 20, PromptWords: 3}
	if err := ok.check(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Load){
		"no requests":     func(l *Load) { l.Requests = 0 },
		"no files":        func(l *Load) { l.Files = 0 },
		"too many files":  func(l *Load) { l.Files = 5 },
		"no tokens":       func(l *Load) { l.MeanTokens = 0 },
		"too few tokens":  func(l *Load) { l.MaxTokens = minTokens - 1 },
		"negative tokens": func(l *Load) { l.MaxTokens = -1 },
		"no prompt":       func(l *Load) { l.PromptWords = 0 },
	} {
		l := ok
		spoil(&l)
		if l.check() == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestParsePart(t *testing.T) {
	if p, err := ParsePart("2/3"); err != nil || p != (Part{2, 3}) {
		t.Errorf("2/3 is %v, %v", p, err)
	}
	for _, bad := range []string{"", "1", "0/2", "3/2", "a/b", "1/2/3", "-1/2"} {
		if p, err := ParsePart(bad); err == nil {
			t.Errorf("%q is %v", bad, p)
		}
	}
}
