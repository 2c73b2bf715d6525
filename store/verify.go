package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"stoker/store/durable"
)

// Invariant names what must hold at every instant; docs/reliability.md explains each.
type Invariant string

const (
	OneRecord    Invariant = "I1"  // every request gets exactly one record
	NoStray      Invariant = "I2"  // no record without a request
	NothingLost  Invariant = "I3"  // what is checkpointed is never lost nor redone
	PublishedAs  Invariant = "I4"  // a published file is complete, never changes, and matches its hash
	InputOnce    Invariant = "I5"  // an input is in exactly one of inbox, .processing, archive
	CheckpointOK Invariant = "I6"  // checkpoint offset <= journal length
	OneEngine    Invariant = "I8"  // at most one engine process tree per replica
	NoLeftovers  Invariant = "I10" // no temporary file of a dead attempt remains
)

// Finding is something that verify saw. A note breaks no invariant.
type Finding struct {
	Batch     string    `json:"batch,omitzero"`
	Invariant Invariant `json:"invariant,omitzero"`
	Note      bool      `json:"note"`
	File      string    `json:"file,omitzero"`
	Line      int64     `json:"line,omitzero"` // physical line of the input
	Message   string    `json:"message"`
}

// Report is what Verify found.
type Report struct {
	Batches  int       `json:"batches"`
	Ended    int       `json:"ended"`
	Requests int64     `json:"requests"`
	Records  int64     `json:"records"`
	Redone   int64     `json:"redone"` // requests that crashes made run again
	Findings []Finding `json:"findings"`
}

// Broken reports whether an invariant does not hold.
func (r *Report) Broken() bool {
	for _, f := range r.Findings {
		if !f.Note {
			return true
		}
	}
	return false
}

// Folders are where Verify looks for what belongs to batches.
type Folders struct {
	FS                     durable.FS // nil: the machine's own
	Inbox, Outbox, Archive string     // "": not looked at
}

func (f Folders) complete() Folders {
	if f.FS == nil {
		f.FS = durable.Local{}
	}
	return f
}

// TempPrefix begins the names of unfinished result files in the outbox; the batch's id follows.
const TempPrefix = ".stoker-"

// Verify proves the invariants of one batch, or of all with id "". It reads the same files that recovery does and
// changes nothing; of a batch that runs it proves the part that is checkpointed.
func (s *Store) Verify(ctx context.Context, id string, folders Folders) (*Report, error) {
	records, err := s.List()
	if err != nil {
		return nil, err
	}
	folders = folders.complete()
	report := &Report{Findings: []Finding{}}
	temporaries := map[string][]string{}
	for _, r := range records {
		if id != "" && r.ID != id {
			continue
		}
		report.Batches++
		v := verifier{store: s, record: r, folders: folders, report: report, temporaries: temporaries, found: map[Invariant]int{}}
		if err := v.run(ctx); ctx.Err() != nil {
			return nil, context.Cause(ctx)
		} else if err != nil {
			v.broken(NothingLost, culprit(err, s.batchDir(r.ID)), 0, "%v", err)
		}
		v.summarize()
	}
	if id != "" && report.Batches == 0 {
		return nil, fmt.Errorf("batch %s: %w", id, ErrNotFound)
	}
	return report, nil
}

// culprit is the file that an error is about, as far as it tells.
func culprit(err error, otherwise string) string {
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		return path.Path
	}
	return otherwise
}

// verifier proves one batch.
type verifier struct {
	store       *Store
	record      *Record
	folders     Folders
	report      *Report
	batch       *Batch
	offsets     []int64             // of each request's first record in the journal; 0: none
	temporaries map[string][]string // temporary files by folder of the outbox, read once
	found       map[Invariant]int   // findings, those that are not told included
}

// maxFindings bounds the findings that are told one by one, of each invariant in each batch.
const maxFindings = 20

func (v *verifier) broken(i Invariant, file string, line int64, format string, args ...any) {
	if v.found[i]++; v.found[i] > maxFindings {
		return
	}
	v.report.Findings = append(v.report.Findings, Finding{
		Batch: v.record.ID, Invariant: i, File: file, Line: line, Message: fmt.Sprintf(format, args...),
	})
}

// summarize tells how many findings were left out.
func (v *verifier) summarize() {
	for _, i := range slices.Sorted(maps.Keys(v.found)) {
		if more := v.found[i] - maxFindings; more > 0 {
			v.report.Findings = append(v.report.Findings, Finding{
				Batch: v.record.ID, Invariant: i, File: v.store.batchDir(v.record.ID), Message: fmt.Sprintf("%d more like these", more),
			})
		}
	}
}

func (v *verifier) note(file, format string, args ...any) {
	v.report.Findings = append(v.report.Findings, Finding{Batch: v.record.ID, Note: true, File: file, Message: fmt.Sprintf(format, args...)})
}

func (v *verifier) run(ctx context.Context) error {
	b, err := v.store.openBatch(v.record.ID, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer b.Close()
	v.batch = b
	v.report.Requests += int64(b.Meta.Requests)
	v.report.Redone += int64(b.progress.Redone)

	v.checkInput()
	if !v.checkSnapshot() {
		return nil // without it the journal's records cannot be judged
	}
	if err := v.checkJournal(ctx); err != nil {
		return err
	}
	if !v.record.State.Ended() {
		return nil
	}
	v.report.Ended++
	return v.checkPublished(ctx)
}

// checkSnapshot proves that the snapshot and its line index are what was accepted, as far as sizes tell, and the digest
// of an input that was not compressed.
func (v *verifier) checkSnapshot() (ok bool) {
	m, s := v.batch.Meta, &v.batch.snapshot
	ok = v.checkSize(s.input, m.Input.Snapshot)
	ok = v.checkSize(s.index, int64(m.Requests)*rowSize) && ok
	if !ok || m.Input.Compression != Plain {
		return ok
	}
	got, _, err := durable.Hash(v.store.fs, s.input.Name())
	if err != nil || got != m.Input.SHA256 {
		v.broken(NothingLost, s.input.Name(), 0, "is not what was accepted: %s", cmp.Or(errorText(err), string(got)))
	}
	return true
}

func (v *verifier) checkSize(f durable.File, want int64) bool {
	err := checkSize(f, want)
	if err != nil {
		v.broken(NothingLost, f.Name(), 0, "%v", err)
	}
	return err == nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// checkInput proves that an input whose batch runs is claimed, and that one whose batch has ended no longer is.
func (v *verifier) checkInput() {
	if v.folders.Inbox == "" {
		return
	}
	claimed := filepath.Join(v.store.claimDir(v.folders, v.record.ID), string(v.record.Input.Name))
	_, err := v.folders.FS.Lstat(claimed)
	switch {
	case err == nil && v.record.Archived:
		v.broken(InputOnce, claimed, 0, "is archived, and still claimed")
	case errors.Is(err, fs.ErrNotExist) && !v.record.Archived && !v.record.State.Ended():
		v.note(claimed, "somebody took the claimed file away; its snapshot runs")
	}
}
