package rig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Tally is what a suite counts in the end.
type Tally struct {
	Lost    int // lines without a result
	Doubled int // results beyond a line's one
}

// Add sums up.
func (t *Tally) Add(o Tally) {
	t.Lost += o.Lost
	t.Doubled += o.Doubled
}

// Tally counts the result lines in the outbox against the lines that were dropped, whatever batch.json says of them.
func (h *Home) Tally(inputs ...Input) (total Tally, err error) {
	var errs []error
	for i := range inputs {
		t, err := h.tally(&inputs[i])
		total.Add(t)
		errs = append(errs, err)
	}
	return total, errors.Join(errs...)
}

func (h *Home) tally(in *Input) (t Tally, err error) {
	queue, file := filepath.Split(in.Name)
	stem := strings.TrimSuffix(file, ".jsonl")
	runs := max(in.Copies, 1) - h.count(map[string]bool{}, "archive/duplicate/"+queue, file)
	got, err := countResults(h.Path("outbox", queue), regexp.MustCompile(`^`+regexp.QuoteMeta(stem)+`(~\w+)?\.(output|errors)\.jsonl$`))
	if err != nil {
		return t, err
	}
	for _, l := range in.Lines {
		got[l.expected()] -= runs
	}
	for _, n := range got {
		t.Lost += max(-n, 0)
		t.Doubled += max(n, 0)
	}
	return t, nil
}

// countResults counts equal result lines of a folder's files with such names.
func countResults(dir string, names *regexp.Regexp) (map[string]int, error) {
	counts := map[string]int{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return counts, nil
	}
	for _, e := range entries {
		if !names.MatchString(e.Name()) {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		results, err := parseResults(string(raw))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		for _, r := range results {
			counts[r]++
		}
	}
	return counts, err
}
