package rig

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// batchObject is what is judged of NAME.batch.json.
type batchObject struct {
	Status string `json:"status"`
	Counts struct {
		Total, Completed, Failed int
	} `json:"request_counts"`
	Stoker struct {
		Name   string      `json:"name"`
		Queue  string      `json:"queue"`
		Input  fileObject  `json:"input"`
		Output *fileObject `json:"output"`
		Errors *fileObject `json:"errors"`
	} `json:"stoker"`
}

type fileObject struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// result is one line of a result file, in either form.
type result struct {
	ID       *string        `json:"custom_id"`
	Response jsontext.Value `json:"response"`
	Error    *struct {
		Code string `json:"code"`
	} `json:"error"`
}

// text is what the engine answered.
func (r *result) text() string {
	var simple string
	if json.Unmarshal(r.Response, &simple) == nil {
		return simple
	}
	var openAI struct {
		Body struct {
			Choices []struct {
				Message struct {
					Content string `json:"content"`
				} `json:"message"`
			} `json:"choices"`
		} `json:"body"`
	}
	if json.Unmarshal(r.Response, &openAI) == nil && len(openAI.Body.Choices) == 1 {
		return openAI.Body.Choices[0].Message.Content
	}
	return ""
}

// Judge reads the folders of a stopped stoker and compares them with what was dropped. It trusts nothing that stoker
// says of itself.
func (h *Home) Judge(inputs ...Input) error {
	var errs []error
	tally, err := h.Tally(inputs...)
	if tally != (Tally{}) {
		err = errors.Join(fmt.Errorf("I1: %d lines lost, %d doubled", tally.Lost, tally.Doubled), err)
	}
	errs = append(errs, err)
	want := map[string]bool{}
	for i := range inputs {
		errs = append(errs, h.judgeInput(&inputs[i], want))
	}
	errs = append(errs, h.judgeStrangers(want), h.JudgeLeftovers())
	return errors.Join(errs...)
}

// judgeInput judges all that became of one input. It adds the files that are accounted for to known.
func (h *Home) judgeInput(in *Input, known map[string]bool) error {
	queue, file := filepath.Split(in.Name)
	stem := strings.TrimSuffix(file, ".jsonl")
	copies := max(in.Copies, 1)
	var errs []error
	set := h.count(known, "archive/duplicate/"+queue, file)
	bases := h.published(filepath.Join(h.Path("outbox"), queue, stem), copies)
	if len(bases) != copies-set {
		errs = append(errs, fmt.Errorf("%s: dropped %d times, %d were set aside, and there are %d results", in.Name, copies, set, len(bases)))
	}
	for _, base := range bases {
		errs = append(errs, h.JudgeBatch(in, base, known))
	}
	folder := "done"
	if in.fails() {
		folder = "failed"
	}
	if archived := h.count(known, "archive/"+folder+"/"+queue, file); archived != copies-set {
		errs = append(errs, fmt.Errorf("I5: %s: dropped %d times, %d were set aside and %d archived as %s", in.Name, copies, set, archived, folder))
	}
	for n := range set {
		note := h.Path("archive/duplicate", queue, Numbered(stem, n+1)+".duplicate.json")
		known[note] = true
		if _, err := os.Stat(note); err != nil {
			errs = append(errs, fmt.Errorf("I5: set aside without a word: %w", err))
		}
	}
	return errors.Join(errs...)
}

// published are those of a base's first n names that a batch has. A name that was reserved for a copy stays unused if the
// copy turns out to be a duplicate.
func (h *Home) published(base string, n int) (bases []string) {
	for i := range n {
		path := Numbered(base, i+1)
		if _, err := os.Lstat(path + ".batch.json"); err == nil {
			bases = append(bases, path)
		}
	}
	return bases
}

func (in *Input) fails() bool {
	for _, l := range in.Lines {
		if l.Code == "" {
			return false
		}
	}
	return true
}

// Numbered is the nth name of a stem that is used more than once.
func Numbered(stem string, n int) string {
	if n == 1 {
		return stem
	}
	return fmt.Sprintf("%s~%d", stem, n)
}

// count counts a file's copies in a folder: x.jsonl, x~2.jsonl, …
func (h *Home) count(known map[string]bool, dir, file string) int {
	stem := strings.TrimSuffix(file, ".jsonl")
	for n := 0; ; n++ {
		path := h.Path(dir, Numbered(stem, n+1)+".jsonl")
		if _, err := os.Lstat(path); err != nil {
			return n
		}
		known[path] = true
	}
}

// JudgeBatch judges the result files of one run of an input.
func (h *Home) JudgeBatch(in *Input, base string, known map[string]bool) error {
	var b batchObject
	raw, err := os.ReadFile(base + ".batch.json")
	if err != nil {
		return err
	}
	known[base+".batch.json"] = true
	if err := json.Unmarshal(raw, &b, json.MatchCaseInsensitiveNames(true)); err != nil {
		return fmt.Errorf("%s.batch.json: %w", base, err)
	}
	output, err1 := readResults(base+".output.jsonl", b.Stoker.Output, known)
	failures, err2 := readResults(base+".errors.jsonl", b.Stoker.Errors, known)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var wantOutput, wantFailures []string
	for _, l := range in.Lines {
		if l.Code == "" {
			wantOutput = append(wantOutput, l.expected())
		} else {
			wantFailures = append(wantFailures, l.expected())
		}
	}
	if h.Unordered {
		for _, lines := range [][]string{output, failures, wantOutput, wantFailures} {
			slices.Sort(lines)
		}
	}
	state := "completed"
	if in.fails() {
		state = "failed"
	}
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(in.Content())))
	got := []any{b.Status, b.Counts.Total, b.Counts.Completed, b.Counts.Failed, b.Stoker.Input.SHA256, output, failures}
	want := []any{state, len(in.Lines), len(wantOutput), len(wantFailures), sum, wantOutput, wantFailures}
	if diff := cmp.Diff(want, got); diff != "" {
		return fmt.Errorf("%s (-want +got):\n%s", base, diff)
	}
	return nil
}

// readResults reads a result file, which must be as the batch object says, as "custom_id: answer or error code".
func readResults(path string, told *fileObject, known map[string]bool) (lines []string, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && told == nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	known[path] = true
	name := strings.ToValidUTF8(filepath.Base(path), "\uFFFD") // as JSON can hold it
	if got := (fileObject{name, fmt.Sprintf("%x", sha256.Sum256(raw)), int64(len(raw))}); told == nil || *told != got {
		return nil, fmt.Errorf("I4: %s is %+v, the batch object says %+v", path, got, told)
	}
	if lines, err = parseResults(string(raw)); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return lines, nil
}

// parseResults reads result lines as "custom_id: answer or error code".
func parseResults(raw string) (lines []string, err error) {
	for text := range strings.Lines(raw) {
		var r result
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			return nil, fmt.Errorf("%w in %q", err, text)
		}
		id, what := "", r.text()
		if r.ID != nil {
			id = *r.ID
		}
		if r.Error != nil {
			what = r.Error.Code
		}
		lines = append(lines, id+": "+what)
	}
	return lines, nil
}

// judgeStrangers finds files in outbox and archive that nothing accounts for.
func (h *Home) judgeStrangers(known map[string]bool) error {
	var errs []error
	for dir, invariant := range map[string]string{"outbox": "I2", "archive": "I5"} {
		filepath.WalkDir(h.Path(dir), func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && !known[path] {
				errs = append(errs, fmt.Errorf("%s: nobody accounts for %s", invariant, path))
			}
			return nil
		})
	}
	return errors.Join(errs...)
}

// JudgeLeftovers finds what must be gone when all has ended: files in the inbox, and temporary ones anywhere.
func (h *Home) JudgeLeftovers() error {
	var errs []error
	if left := h.InboxFiles(); len(left) > 0 {
		errs = append(errs, fmt.Errorf("I5: left in the inbox: %q", left))
	}
	batchFiles := map[string]bool{"input.jsonl": true, "input.idx": true, "journal": true, "meta.json": true}
	filepath.WalkDir(h.Dir, func(path string, e fs.DirEntry, err error) error {
		inBatch := strings.Contains(path, "/batches/")
		if err == nil && !e.IsDir() && (strings.HasSuffix(path, ".tmp") || inBatch && !batchFiles[e.Name()]) {
			errs = append(errs, fmt.Errorf("I10: left over: %s", path))
		}
		return nil
	})
	return errors.Join(errs...)
}

// Count counts the files under a folder whose names end so.
func (h *Home) Count(dir, suffix string) (n int) {
	filepath.WalkDir(h.Path(dir), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && strings.HasSuffix(path, suffix) {
			n++
		}
		return nil
	})
	return n
}
