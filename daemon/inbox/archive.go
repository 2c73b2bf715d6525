package inbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
)

// archiver moves files out of .processing: the inputs of ended batches, and duplicates. It has a goroutine of its own,
// because the archive may be on another share than the inbox, and hang.
type archiver struct {
	in   *Inbox // of which it uses only what has no state of its own
	wake chan struct{}
	left chan departure // what became of duplicates

	mu      sync.Mutex
	ended   []*store.Record // batches whose input is to leave .processing
	aside   []*claim        // duplicates to be set aside, each once
	problem error           // why ended is not empty
}

// departure is what setting a duplicate aside came to.
type departure struct {
	claim *claim
	err   error
}

// Archive is what waits to be archived.
type Archive struct {
	Waiting int    `json:"waiting"`
	Problem string `json:"problem,omitzero"`

	Lacks *durable.FullError `json:"-"` // what Problem says, if it is that
}

func newArchiver(in *Inbox) *archiver {
	return &archiver{in: in, wake: make(chan struct{}, 1), left: make(chan departure)}
}

func (a *archiver) status() Archive {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Archive{Waiting: len(a.ended) + len(a.aside)}
	if a.problem != nil {
		s.Problem = a.problem.Error()
		errors.As(a.problem, &s.Lacks)
	}
	return s
}

// archive queues the input of an ended batch. It does not block.
func (a *archiver) archive(records ...*store.Record) {
	a.mu.Lock()
	a.ended = append(a.ended, records...)
	a.mu.Unlock()
	a.signal()
}

// setAside queues a duplicate. It does not block.
func (a *archiver) setAside(c *claim) {
	a.mu.Lock()
	a.aside = append(a.aside, c)
	a.mu.Unlock()
	a.signal()
}

func (a *archiver) signal() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// maxArchivePause bounds the pause between two tries.
const maxArchivePause = 30 * time.Second

// run archives until the context ends. What cannot be moved now is tried again.
func (a *archiver) run(ctx context.Context) {
	a.recover()
	pause := a.in.o.PollEvery
	for {
		a.setAsideAll(ctx)
		if a.archiveEnded(ctx) {
			pause = a.in.o.PollEvery
		}
		var again <-chan time.Time
		if a.status().Waiting > 0 {
			again = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-again:
			pause = min(2*pause, maxArchivePause)
		}
	}
}

// recover finds the inputs that a former life did not archive.
func (a *archiver) recover() {
	records, err := a.in.o.Store.List()
	if err != nil {
		a.in.o.Logger.Error().Err(err).Msg("cannot list batches")
	}
	for _, r := range records {
		if r.State.Ended() && !r.Archived {
			a.archive(r)
		}
	}
}

// archiveEnded reports whether nothing is left to be archived.
func (a *archiver) archiveEnded(ctx context.Context) bool {
	a.mu.Lock()
	todo := slices.Clone(a.ended)
	a.mu.Unlock()
	var problem error
	for _, r := range todo {
		if ctx.Err() != nil {
			return false
		}
		err := a.archiveOne(r)
		if err == nil {
			a.mu.Lock()
			a.ended = slices.DeleteFunc(a.ended, func(other *store.Record) bool { return other == r })
			a.mu.Unlock()
			continue
		}
		problem = err
	}
	a.note(problem)
	return problem == nil
}

// note takes down why inputs cannot be archived, and says it once.
func (a *archiver) note(problem error) {
	a.mu.Lock()
	before, left := a.problem, len(a.ended)
	a.problem = problem
	a.mu.Unlock()
	switch {
	case problem != nil && (before == nil || before.Error() != problem.Error()):
		a.in.o.Logger.Warn().Err(problem).Int("inputs", left).Msg("cannot archive; trying again")
	case problem == nil && before != nil:
		a.in.o.Logger.Info().Msg("archiving goes on")
	}
}

func (a *archiver) archiveOne(r *store.Record) error {
	in, folder := a.in, "done"
	if r.State == store.Failed {
		folder = "failed"
	}
	in.dropLink(r.ID)
	from := in.claimPath(r.ID, r.Input.Name)
	to, err := in.move(from, folder, r.Queue, r.Input.Name)
	if err != nil && in.isGone(r.ID, r.Input.Name) { // it was moved before a crash, or taken away
		err = in.syncArchive(folder, r.Queue)
	}
	if err != nil {
		return fmt.Errorf("archive %s: %w", r.Input.Name, durable.Full(in.o.Archive, r.Input.Bytes, err))
	}
	faults.Crash("archive.moved")
	if err := in.dropHalfSetAside(r.ID, r.Queue); err != nil {
		return fmt.Errorf("archive %s: %w", r.Input.Name, err)
	}
	in.giveBackRest(r.ID, r.Queue)
	if err := in.removeClaimDir(r.ID); err != nil { // once the batch counts as archived nobody looks there any more
		return fmt.Errorf("archive %s: %w", r.Input.Name, err)
	}
	if err := in.o.Store.SetArchived(r.ID); err != nil {
		return err
	}
	faults.Crash("archive.recorded")
	in.o.Logger.Debug().Str("batch", r.ID).Str("path", to).Msg("input is archived")
	return nil
}

// move puts a claimed file into a folder of the archive under its name, or the next free one: x~2.jsonl.
func (in *Inbox) move(from, folder, queue string, name store.FileName) (string, error) {
	if st, err := in.o.FS.Lstat(from); err != nil {
		return "", err
	} else if !st.Mode().IsRegular() { // the file was taken away; the archive is no place for what is there instead
		return "", cmp.Or(giveBack(in.o.FS, in.o.Dir, from, queue, name), fs.ErrNotExist)
	}
	dir := filepath.Join(in.o.Archive, folder, queue)
	if err := durable.MkdirAll(in.o.FS, dir, 0o775); err != nil {
		return "", err
	}
	if to, err := in.copied(from); err != nil {
		return "", err
	} else if to != "" {
		return to, errors.Join(ignoreMissing(in.o.FS.Remove(moveTemp(from, to))), in.endOriginal(from, to))
	}
	for n := 1; ; n++ {
		to := filepath.Join(dir, numbered(string(name), n))
		if _, err := in.o.FS.Lstat(noteBeside(to)); err == nil {
			continue // x.jsonl and x.jsonl.gz would share a note
		}
		if err := in.moveTo(from, to); !errors.Is(err, fs.ErrExist) {
			return to, err
		}
	}
}

// syncArchive makes a move durable that a crash may have cut off behind its rename, before the claim is forgotten.
func (in *Inbox) syncArchive(folder, queue string) error {
	return ignoreMissing(durable.SyncDir(in.o.FS, filepath.Join(in.o.Archive, folder, queue)))
}

func (in *Inbox) moveTo(from, to string) error {
	err := in.o.FS.RenameNew(from, to)
	if errors.Is(err, unix.EXDEV) {
		return in.moveAcross(from, to)
	}
	if err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(in.o.FS, filepath.Dir(to)), durable.SyncDir(in.o.FS, filepath.Dir(from)))
}

// movedFile stands beside a claimed file that is moved to another filesystem, and names the copy within the archive, whose
// folder may have moved by the next start. Without it a crash between the copy's appearing and the original's end would
// make another copy.
const movedFile = ".moved"

// moveAcross copies a file to another filesystem, and ends the original once the copy is durable under its name.
func (in *Inbox) moveAcross(from, to string) error {
	if _, err := in.o.FS.Lstat(to); err == nil {
		return fs.ErrExist
	}
	tmp := moveTemp(from, to)
	name, err := filepath.Rel(in.o.Archive, to)
	if err == nil {
		err = durable.Copy(in.o.FS, from, tmp)
	}
	if err == nil {
		err = durable.WriteFile(in.o.FS, filepath.Join(filepath.Dir(from), movedFile), []byte(name), 0o664)
	}
	if err == nil {
		err = in.o.FS.RenameNew(tmp, to)
	}
	if err != nil {
		in.o.FS.Remove(tmp)
		return fmt.Errorf("move %s to another filesystem: %w", from, err)
	}
	return in.endOriginal(from, to)
}

// moveTemp is the copy's name while it is made: what a crash leaves behind is known by the batch's id.
func moveTemp(from, to string) string {
	return filepath.Join(filepath.Dir(to), durable.MovePrefix+filepath.Base(filepath.Dir(from))+".tmp")
}

// endOriginal removes a file once its copy's name is durable.
func (in *Inbox) endOriginal(from, to string) error {
	if err := durable.SyncDir(in.o.FS, filepath.Dir(to)); err != nil {
		return err
	}
	if err := in.o.FS.Remove(from); err != nil {
		return err
	}
	return durable.SyncDir(in.o.FS, filepath.Dir(from))
}

// copied returns the copy of a claimed file that an attempt before a crash has made, "" if there is none.
func (in *Inbox) copied(from string) (string, error) {
	name, err := durable.ReadFile(in.o.FS, filepath.Join(filepath.Dir(from), movedFile))
	if errors.Is(err, fs.ErrNotExist) || err == nil && !filepath.IsLocal(string(name)) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	to := filepath.Join(in.o.Archive, string(name))
	same, err := durable.SameContents(in.o.FS, from, to)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !same {
		return "", nil // the crash came before
	}
	return to, err
}

// numbered is a name for the nth file of the same name. It leaves room for the suffix of a note, which would be cut
// before the number else.
func numbered(name string, n int) string {
	if n == 1 {
		return name
	}
	stem, suffix := splitName(name)
	number := "~" + strconv.Itoa(n)
	return store.CutName(stem, len(number)+max(len(suffix), store.LongestSuffix)) + number + suffix
}

// setAside is how far a duplicate is on its way out.
type setAside struct {
	of    string // the batch that it is one of
	moved string // where it is now; "" while it is claimed
}

// setAsideAll tries each duplicate once, and tells the inbox.
func (a *archiver) setAsideAll(ctx context.Context) {
	a.mu.Lock()
	todo := a.aside
	a.aside = nil
	a.mu.Unlock()
	for _, c := range todo {
		select {
		case a.left <- departure{c, a.setAsideOne(c)}:
		case <-ctx.Done(): // the next start admits it, and finds again what it is
			return
		}
	}
}

// setAsideOne moves a duplicate away, with a note that names the batch that it is one of. What fails is done again later,
// without the rest.
func (a *archiver) setAsideOne(c *claim) error {
	d := c.duplicate
	if d.moved == "" {
		if err := a.in.noteSetAside(c); err != nil {
			return durable.Full(a.in.o.Dir, c.print.size, err)
		}
		to, err := a.in.move(a.in.claimPath(c.id, c.name), "duplicate", c.queue, c.name)
		if err != nil && a.in.isGone(c.id, c.name) {
			return a.in.syncArchive("duplicate", c.queue)
		}
		if err != nil {
			return durable.Full(a.in.o.Archive, c.print.size, err)
		}
		d.moved = to
		faults.Crash("duplicate.moved")
	}
	if err := a.in.noteDuplicate(c); err != nil {
		return durable.Full(a.in.o.Archive, c.print.size, err)
	}
	a.in.o.Logger.Info().Str("name", c.name.String()).Str("batch", d.of).Msg("same file as a batch that has not ended; set aside")
	return nil
}

// departed deals with what became of a duplicate.
func (in *Inbox) departed(d departure) {
	d.claim.leaving = false
	if d.err != nil {
		in.retry(d.claim, d.err)
		return
	}
	in.release(d.claim)
}

// duplicateFile stands beside a claimed file that is on its way out, for a crash between its move and its note.
const duplicateFile = ".duplicate"

// setAsideNote is what duplicateFile holds.
type setAsideNote struct {
	Name store.FileName `json:"name"`
	Of   string         `json:"duplicate_of"`
}

func (in *Inbox) noteSetAside(c *claim) error {
	b, err := json.Marshal(setAsideNote{c.name, c.duplicate.of})
	if err != nil {
		return fmt.Errorf("encode note in claim: %w", err)
	}
	return durable.WriteFile(in.o.FS, in.claimPath(c.id, duplicateFile), b, 0o664)
}

// dropHalfSetAside removes half a copy of a file that was to be set aside when a crash came, and was no duplicate any more
// at the next start.
func (in *Inbox) dropHalfSetAside(id, queue string) error {
	if _, err := in.o.FS.Lstat(in.claimPath(id, duplicateFile)); err != nil {
		return ignoreMissing(err)
	}
	half := filepath.Join(in.o.Archive, "duplicate", queue, durable.MovePrefix+id+".tmp")
	return ignoreMissing(in.o.FS.Remove(half))
}

// movedDuplicate returns a claim whose file was moved away as a duplicate before a crash, and has no note yet; nil if
// there is none. The file is known by its name and by having no note.
func (in *Inbox) movedDuplicate(id string) (*claim, error) {
	b, err := durable.ReadFile(in.o.FS, in.claimPath(id, duplicateFile))
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var note setAsideNote
	if err := json.Unmarshal(b, &note); err != nil || !isBatch(string(note.Name)) || filepath.Base(string(note.Name)) != string(note.Name) {
		return nil, nil // somebody else's, or half written, before the move
	}
	queue, err := in.claimQueue(id)
	if err != nil {
		return nil, err
	}
	for n := 1; ; n++ {
		to := filepath.Join(in.o.Archive, "duplicate", queue, numbered(string(note.Name), n))
		if _, err := in.o.FS.Lstat(to); err != nil {
			return nil, ignoreMissing(err)
		}
		if _, err := in.o.FS.Lstat(noteBeside(to)); errors.Is(err, fs.ErrNotExist) {
			return &claim{id: id, queue: queue, name: note.Name, since: time.Now(), duplicate: &setAside{note.Of, to}, reason: "set aside before a crash"}, nil
		}
	}
}

func (in *Inbox) noteDuplicate(c *claim) error {
	of := c.duplicate.of
	note := struct {
		SchemaVersion int            `json:"schema_version"`
		Name          store.FileName `json:"name"`
		Queue         string         `json:"queue"`
		DuplicateOf   string         `json:"duplicate_of"`
		Message       string         `json:"message"`
	}{1, c.name, c.queue, of, "the same file is batch " + of + ", which had not ended; this copy was not run"}
	b, err := json.Marshal(note, jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("encode duplicate note: %w", err)
	}
	return durable.WriteFile(in.o.FS, noteBeside(c.duplicate.moved), append(b, '\n'), 0o664)
}

// noteBeside is the name of a duplicate's note.
func noteBeside(path string) string {
	stem, _, _ := store.SplitInputName(filepath.Base(path))
	return filepath.Join(filepath.Dir(path), stem+store.SuffixDuplicate)
}
