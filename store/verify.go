package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"os"
	"path/filepath"

	"stoker/store/batchfile"
	"stoker/store/durable"
)

// Invariant names what must hold at every instant; docs/reliability.md explains each.
type Invariant string

const (
	OneRecord    Invariant = "I1" // every request gets exactly one record
	NoStray      Invariant = "I2" // no record without a request
	NothingLost  Invariant = "I3" // what is checkpointed is never lost nor redone
	PublishedAs  Invariant = "I4" // a published file is complete, never changes, and matches its hash
	InputOnce    Invariant = "I5" // an input is in exactly one of inbox, .processing, archive
	CheckpointOK Invariant = "I6" // checkpoint offset <= journal length
	OneEngine    Invariant = "I8" // at most one engine process tree per replica
	NoLeftovers  Invariant = "I10"
)

// Finding is something that verify saw. A note breaks no invariant.
type Finding struct {
	Batch     string    `json:"batch,omitempty"`
	Invariant Invariant `json:"invariant,omitempty"`
	Note      bool      `json:"note"`
	File      string    `json:"file,omitempty"`
	Line      int64     `json:"line,omitempty"` // physical line of the input
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
	Inbox, Outbox string
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
	report := &Report{Findings: []Finding{}}
	for _, r := range records {
		if id != "" && r.ID != id {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		report.Batches++
		v := verifier{store: s, record: r, folders: folders, report: report}
		if err := v.run(); err != nil {
			v.broken(NothingLost, s.batchDir(r.ID), 0, "%v", err)
		}
	}
	if id != "" && report.Batches == 0 {
		return nil, fmt.Errorf("batch %s: %w", id, ErrNotFound)
	}
	return report, nil
}

type verifier struct {
	store   *Store
	record  *Record
	folders Folders
	report  *Report
	batch   *Batch
	seen    []uint64 // a bit for each request that has a record
}

func (v *verifier) broken(i Invariant, file string, line int64, format string, args ...any) {
	v.report.Findings = append(v.report.Findings, Finding{
		Batch: v.record.ID, Invariant: i, File: file, Line: line, Message: fmt.Sprintf(format, args...),
	})
}

func (v *verifier) note(file, format string, args ...any) {
	v.report.Findings = append(v.report.Findings, Finding{Batch: v.record.ID, Note: true, File: file, Message: fmt.Sprintf(format, args...)})
}

func (v *verifier) run() error {
	b, err := v.store.openBatch(v.record.ID, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer b.Close()
	v.batch = b
	v.seen = make([]uint64, (b.Meta.Requests+63)/64)
	v.report.Requests += int64(b.Meta.Requests)
	v.report.Redone += int64(b.progress.Redone)

	v.checkSnapshot()
	if err := v.checkJournal(); err != nil {
		return err
	}
	v.checkInput()
	if !v.record.State.Ended() {
		return nil
	}
	v.report.Ended++
	return v.checkPublished()
}

func (v *verifier) checkSnapshot() {
	m := v.batch.Meta
	for _, want := range []struct {
		f    *os.File
		size int64
	}{{v.batch.snapshot.input, m.Input.Snapshot}, {v.batch.snapshot.index, int64(m.Requests) * rowSize}} {
		st, err := want.f.Stat()
		if err != nil || st.Size() != want.size {
			v.broken(NothingLost, want.f.Name(), 0, "is %d bytes long, not %d", st.Size(), want.size)
		}
	}
}

// checkJournal reads the checkpointed part of the journal frame by frame.
func (v *verifier) checkJournal() error {
	b := v.batch
	name := b.journal.f.Name()
	if b.progress.Offset > b.journal.offset {
		v.broken(CheckpointOK, name, 0, "the checkpoint covers %d bytes, the journal has %d", b.progress.Offset, b.journal.offset)
		return nil
	}
	records := int64(0)
	valid, err := scanJournal(b.journal.f, int64(len(journalHead)), b.progress.Offset, false, func(at int64, f Frame) error {
		if !f.Kind.IsResult() {
			return b.control(f)
		}
		records++
		v.checkRecord(at, f)
		return nil
	})
	if err != nil {
		return err
	}
	if valid != b.progress.Offset {
		v.broken(NothingLost, name, 0, "no valid frame at %d, before the checkpoint at %d", valid, b.progress.Offset)
	}
	if records != int64(b.progress.Records()) {
		v.broken(NothingLost, name, 0, "%d records stand before the checkpoint, which counts %d", records, b.progress.Records())
	}
	v.report.Records += records
	if v.record.State.Ended() || v.record.State == Finalizing {
		v.checkComplete()
	}
	return nil
}

// checkRecord proves that a record is the first of its request, and names it.
func (v *verifier) checkRecord(at int64, f Frame) {
	b := v.batch
	name := b.journal.f.Name()
	if f.Seq >= b.Meta.Requests {
		v.broken(NoStray, name, 0, "the record at %d is of request %d, but there are %d", at, f.Seq, b.Meta.Requests)
		return
	}
	ref := v.ref(f.Seq)
	if v.seen[f.Seq/64]&(1<<(f.Seq%64)) != 0 {
		v.broken(OneRecord, name, ref.Line, "the record at %d is a second one of this request", at)
	}
	v.seen[f.Seq/64] |= 1 << (f.Seq % 64)
	if !b.progress.Has(f.Seq) {
		v.broken(NothingLost, name, ref.Line, "the record at %d stands before the checkpoint, which does not know it", at)
	}
	id, line, ok := batchfile.ReadRef(f.Payload)
	if !ok || id != ref.CustomID || (line != 0 && line != ref.Line) {
		v.broken(NoStray, name, ref.Line, "the record at %d is of custom_id %q, line %d; the request's is %q", at, id, line, ref.CustomID)
	}
}

// ref is what a request's record must say of it.
func (v *verifier) ref(seq uint32) batchfile.Ref {
	req, err := v.batch.Request(seq)
	var bad *batchfile.LineError
	if errors.As(err, &bad) {
		return bad.Ref
	}
	return req.Ref
}

func (v *verifier) checkComplete() {
	missing := 0
	for seq := range v.batch.Meta.Requests {
		if v.seen[seq/64]&(1<<(seq%64)) == 0 {
			if missing++; missing <= 10 {
				v.broken(OneRecord, v.batch.journal.f.Name(), v.ref(seq).Line, "the batch is %s, but this request has no record", v.record.State)
			}
		}
	}
	if missing > 10 {
		v.broken(OneRecord, v.batch.journal.f.Name(), 0, "%d requests have no record", missing)
	}
}

// checkInput proves that an input whose batch runs is claimed, and that one whose batch has ended no longer is.
func (v *verifier) checkInput() {
	if v.folders.Inbox == "" {
		return
	}
	claimed := filepath.Join(v.folders.Inbox, ".processing", v.store.instance, v.record.ID, string(v.record.Input.Name))
	_, err := os.Lstat(claimed)
	switch {
	case err == nil && v.record.Archived:
		v.broken(InputOnce, claimed, 0, "is archived, and still claimed")
	case errors.Is(err, fs.ErrNotExist) && !v.record.Archived && !v.record.State.Ended():
		v.note(claimed, "somebody took the claimed file away; its snapshot runs")
	}
}

// checkPublished proves that the result files are those that the publish frame recorded, and that they are the journal's
// records and nothing else.
func (v *verifier) checkPublished() error {
	p := v.batch.publication
	if p == nil {
		v.broken(PublishedAs, v.batch.journal.f.Name(), 0, "the batch has ended, but was never published")
		return nil
	}
	dir := filepath.Join(v.folders.Outbox, v.record.Queue)
	for _, f := range p.Files {
		v.checkFile(filepath.Join(dir, string(p.Name)+f.Suffix), f.SHA256)
	}
	sum := durable.SHA256(fmt.Sprintf("%x", sha256.Sum256(p.Batch)))
	v.checkFile(filepath.Join(dir, string(p.Name)+SuffixBatch), sum)
	v.checkTemporaries(dir)
	return v.checkContents(p)
}

func (v *verifier) checkFile(path string, want durable.SHA256) {
	got, _, err := durable.Hash(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.note(path, "was taken away")
	case err != nil:
		v.broken(PublishedAs, path, 0, "%v", err)
	case got != want:
		v.broken(PublishedAs, path, 0, "does not match its hash: it is %s, published was %s", got, want)
	}
}

func (v *verifier) checkTemporaries(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, TempPrefix+v.record.ID+"*"))
	for _, path := range left {
		v.broken(NoLeftovers, path, 0, "is left over from an attempt to publish")
	}
}

// checkContents puts the result files together from the journal again and compares digests.
func (v *verifier) checkContents(p *Publication) error {
	sums := map[string]hash.Hash{SuffixOutput: sha256.New(), SuffixErrors: sha256.New()}
	err := v.eachRecord(p.InputOrder, func(f Frame) error {
		h := sums[SuffixOutput]
		if f.Kind == KindError {
			h = sums[SuffixErrors]
		}
		h.Write(f.Payload)
		_, err := h.Write([]byte{'\n'})
		return err
	})
	if err != nil {
		return err
	}
	for _, f := range p.Files {
		if got := durable.SHA256(fmt.Sprintf("%x", sums[f.Suffix].Sum(nil))); got != f.SHA256 {
			v.broken(PublishedAs, v.batch.journal.f.Name(), 0, "%s%s is not what the journal holds: %s, published was %s", p.Name, f.Suffix, got, f.SHA256)
		}
	}
	return nil
}

// eachRecord calls visit for the journal's records. In input order it keeps their offsets in memory: verify runs beside
// the daemon and writes nothing.
func (v *verifier) eachRecord(inputOrder bool, visit func(Frame) error) error {
	j := v.batch.journal
	offsets := make([]int64, v.batch.Meta.Requests)
	seen := make([]bool, v.batch.Meta.Requests)
	_, err := scanJournal(j.f, int64(len(journalHead)), j.offset, true, func(at int64, f Frame) error {
		if !f.Kind.IsResult() || f.Seq >= v.batch.Meta.Requests || seen[f.Seq] {
			return nil
		}
		seen[f.Seq], offsets[f.Seq] = true, at
		if inputOrder {
			return nil
		}
		return visit(f)
	})
	if err != nil || !inputOrder {
		return err
	}
	frames := frameCache{f: j.f, end: j.offset}
	for _, at := range offsets {
		if at == 0 {
			continue
		}
		f, err := frames.read(at)
		if err != nil {
			return err
		}
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}
