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
	"strings"
	"syscall"
	"time"

	"stoker/store/batchfile"
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
	Resumes      Invariant = "I7"  // after any crash stoker returns to work without hands
	OneEngine    Invariant = "I8"  // at most one engine process tree per replica
	RedoBounded  Invariant = "I9"  // a crash makes run again only what was in flight or unsynced
	NoLeftovers  Invariant = "I10" // no temporary file of a dead attempt remains
)

// Finding is something that verify saw. A note breaks no invariant.
type Finding struct {
	Batch     string    `json:"batch,omitzero"`
	Invariant Invariant `json:"invariant,omitzero"`
	Note      bool      `json:"note"`
	File      string    `json:"file,omitzero"`
	Line      int64     `json:"line,omitzero"` // of File, if that has lines, else of the input
	Message   string    `json:"message"`
}

// OfInput reports whether Line is of the batch's input: journals and indexes have no lines of their own.
func (f *Finding) OfInput() bool {
	name := filepath.Base(f.File)
	return name == journalFile || name == indexFile
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
	ids, err := s.allIDs()
	if err != nil {
		return nil, err
	}
	if id != "" {
		if !slices.Contains(ids, id) {
			return nil, fmt.Errorf("batch %s: %w", id, ErrNotFound)
		}
		ids = []string{id}
	}
	report := &Report{Findings: []Finding{}}
	survey := newSurvey(s, folders.complete(), report)
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		v := verifier{survey: survey, id: id, found: map[Invariant]int{}}
		if err := v.verify(ctx); err != nil {
			return nil, err
		}
	}
	survey.look(id)
	return report, nil
}

// verify proves one batch. What cannot be read of it is a finding.
func (v *verifier) verify(ctx context.Context) error {
	defer v.summarize()
	s := v.store
	if misfit := s.misfit(v.id, v.folders); misfit != "" {
		v.checkMisfit(misfit)
	}
	var err error
	v.record, err = s.Get(v.id)
	if _, blocked := errors.AsType[*blockedError](err); blocked {
		v.broken(Resumes, s.batchDir(v.id), 0, "%v; %s", err, remedy(s.batchDir(v.id)))
	}
	if errors.Is(err, ErrNotFound) || errors.Is(err, errBadRecord) {
		return nil // the survey tells of its folder
	}
	if err != nil {
		return err
	}
	v.report.Batches++
	err = v.run(ctx)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		v.broken(NothingLost, culprit(err, s.batchDir(v.id)), 0, "%v", err)
	}
	return nil
}

// remedy says what can be done about a batch whose folder cannot be read, which no rebuild makes whole.
func remedy(dir string) string {
	return "put its files back from a copy, or move " + dir + " away, and use 'stoker state rebuild --force': without the folder its claimed file runs again"
}

// checkMisfit tells what the database has lost of a batch, or cannot read.
func (v *verifier) checkMisfit(misfit string) {
	_, err := v.store.Get(v.id)
	switch {
	case errors.Is(err, ErrNotFound):
		v.broken(NothingLost, v.store.batchDir(v.id), 0, "%s; a rebuild of the state finds it", misfit)
	case errors.Is(err, errBadRecord):
		v.broken(Resumes, v.store.batchDir(v.id), 0, "%s; the batch waits for a rebuild of the state", misfit)
	default:
		v.broken(NothingLost, v.store.db.Path(), 0, "%s; a rebuild of the state mends it", misfit)
	}
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
	*survey
	id      string
	record  *Record
	batch   *Batch
	offsets []int64           // of each request's first record in the journal; 0: none
	lost    int64             // requests that should have a record and have none
	found   map[Invariant]int // findings, those that are not told included
}

// maxFindings bounds the findings that are told one by one, of each invariant in each batch.
const maxFindings = 20

func (v *verifier) broken(i Invariant, file string, line int64, format string, args ...any) {
	if v.found[i]++; v.found[i] > maxFindings {
		return
	}
	v.report.Findings = append(v.report.Findings, Finding{
		Batch: v.id, Invariant: i, File: file, Line: line, Message: fmt.Sprintf(format, args...),
	})
}

// summarize tells how many findings were left out.
func (v *verifier) summarize() {
	for _, i := range slices.Sorted(maps.Keys(v.found)) {
		if more := v.found[i] - maxFindings; more > 0 {
			v.report.Findings = append(v.report.Findings, Finding{
				Batch: v.id, Invariant: i, File: v.store.batchDir(v.id), Message: fmt.Sprintf("%d more like these", more),
			})
		}
	}
}

func (v *verifier) note(file, format string, args ...any) {
	v.report.Findings = append(v.report.Findings, Finding{Batch: v.id, Note: true, File: file, Message: fmt.Sprintf(format, args...)})
}

func (v *verifier) run(ctx context.Context) error {
	v.checkInput()
	b, err := v.store.openBatch(v.id, os.O_RDONLY)
	if err != nil && !v.record.State.Ended() {
		v.broken(Resumes, culprit(err, v.store.batchDir(v.id)), 0, "the next start cannot open the batch: %v; %s", err, remedy(v.store.batchDir(v.id)))
		return nil
	}
	if err != nil {
		return err
	}
	defer b.Close()
	v.batch, v.record = b, b.Record
	v.report.Requests += int64(b.Meta.Requests)
	v.report.Redone += int64(b.progress.Redone)
	if !v.checkSnapshot(ctx) {
		return nil // without it the journal's records cannot be judged
	}
	if err := v.checkJournal(ctx); err != nil {
		return err
	}
	if v.record.State.Ended() {
		v.report.Ended++
		return v.checkPublished(ctx)
	}
	return v.checkRecovery(ctx)
}

// checkRecovery goes the way of the next start in memory.
func (v *verifier) checkRecovery(ctx context.Context) error {
	b, err := v.store.openBatch(v.id, os.O_RDONLY)
	if err != nil {
		return err
	}
	defer b.Close()
	_, err = b.readJournal(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		v.broken(Resumes, b.journal.Name(), 0, "the next start cannot recover the batch: %v", err)
		return nil
	}
	if p := &b.progress; p.Redone > 0 && p.handed.count() == 0 {
		v.broken(RedoBounded, v.store.db.Path(), 0, "%d requests count as run again, but none was given to the engine", p.Redone)
	}
	return nil
}

// checkSnapshot proves that the snapshot and its line index are what was accepted: by their sizes, each row and line by its
// checksum, and an input that was not compressed by its digest.
func (v *verifier) checkSnapshot(ctx context.Context) (ok bool) {
	m, s := v.batch.Meta, &v.batch.snapshot
	ok = v.checkSize(s.input, m.Input.Snapshot)
	ok = v.checkSize(s.index, int64(m.Requests)*rowSize) && ok
	for seq := uint32(0); ok && seq < m.Requests && ctx.Err() == nil; seq++ {
		v.checkLine(seq)
	}
	if !ok || m.Input.Compression != batchfile.Plain {
		return ok
	}
	got, _, err := durable.Hash(v.store.fs, s.input.Name())
	if err != nil || got != m.Input.SHA256 {
		v.broken(NothingLost, s.input.Name(), 0, "is not what was accepted: %s", cmp.Or(errorText(err), string(got)))
	}
	return true
}

func (v *verifier) checkLine(seq uint32) {
	s := &v.batch.snapshot
	w, err := s.row(seq)
	if err != nil {
		v.broken(NothingLost, s.index.Name(), 0, "%v", err)
		return
	}
	if _, err := s.line(w); err != nil {
		v.broken(NothingLost, s.input.Name(), int64(w.line), "%v", err)
	}
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

// checkInput proves that an input whose batch runs is claimed, and that one whose batch has ended is archived.
func (v *verifier) checkInput() {
	if v.folders.Inbox == "" {
		return
	}
	r := v.record
	dir := v.store.claimDir(v.folders, r.ID)
	claimed := filepath.Join(dir, string(r.Input.Name))
	st, err := v.folders.FS.Lstat(claimed)
	switch {
	case err == nil && r.Archived:
		v.broken(InputOnce, claimed, 0, "is archived, and still claimed")
	case err == nil:
		v.checkNotDropped(st)
	case !errors.Is(err, fs.ErrNotExist):
		v.note(claimed, "cannot be looked at: %v", err)
	case r.Archived:
		v.checkArchived(dir)
	case !r.State.Ended() && v.stillRuns():
		v.note(claimed, "somebody took the claimed file away; its snapshot runs")
	}
}

// checkNotDropped proves that a claimed file has left the inbox: on a share that knows no other rename it is linked first.
// Somebody may link it there again, which sets its inode's time of change.
func (v *verifier) checkNotDropped(claimed fs.FileInfo) {
	path := filepath.Join(v.folders.Inbox, v.record.Queue, string(v.record.Input.Name))
	st, err := v.folders.FS.Lstat(path)
	switch {
	case err != nil || !durable.SameFile(st, claimed):
	case changedAt(st) > v.record.CreatedAt:
		v.note(path, "is claimed, and was linked into the inbox again since; it is taken as another file")
	default:
		v.broken(InputOnce, path, 0, "is claimed, and still in the inbox")
	}
}

// changedAt is when a file or its links changed last, in Unix milliseconds; 0 if the filesystem does not tell.
func changedAt(st fs.FileInfo) int64 {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0
	}
	return time.Unix(sys.Ctim.Unix()).UnixMilli()
}

// stillRuns looks again at a record that may have changed since it was read.
func (v *verifier) stillRuns() bool {
	r, err := v.store.Get(v.id)
	return err == nil && !r.State.Ended()
}

// isForeign tells what somebody else put into a claim's folder: stoker puts the input there, and files with a dot.
func (v *verifier) isForeign(e fs.DirEntry) bool {
	return !strings.HasPrefix(e.Name(), ".") && e.Name() != string(v.record.Input.Name)
}

// checkArchived proves that nothing is left of an archived input's claim. That it is in the archive no more is a note.
func (v *verifier) checkArchived(dir string) {
	if entries, err := v.folders.FS.ReadDir(dir); err == nil && slices.ContainsFunc(entries, v.isForeign) {
		v.note(dir, "holds what somebody put there")
	} else if err == nil {
		v.broken(InputOnce, dir, 0, "is the claim of a batch whose input is archived")
	}
	r := v.record
	if v.folders.Archive == "" || r.Changed { // what it was changed to is not known
		return
	}
	archive := filepath.Join(v.folders.Archive, r.State.ArchiveFolder(), r.Queue)
	if r.EndedAt <= v.began && !v.holds(archive, r.Input) {
		v.note(filepath.Join(archive, string(r.Input.Name)), "the input is in the archive no more")
	}
}
