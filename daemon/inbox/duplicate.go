package inbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
	"stoker/store/layout"
)

// duplicate is a claimed file on its way out. Only the archiver changes it.
type duplicate struct {
	id    string // of its claim
	queue string
	name  store.FileName
	bytes int64
	of    string // the batch that it is one of
	moved string // where it is now; "" while it is claimed
}

// setAsideAll tries each duplicate once, and tells the inbox.
func (a *archiver) setAsideAll(ctx context.Context) {
	a.mu.Lock()
	todo := a.aside
	a.aside = nil
	a.mu.Unlock()
	for _, d := range todo {
		select {
		case a.left <- departure{d, a.setAsideOne(d)}:
		case <-ctx.Done(): // the next start admits it, and finds again what it is
			return
		}
	}
}

// setAsideOne moves a duplicate away, with a note that names the batch that it is one of. What fails is done again later,
// without the rest.
func (a *archiver) setAsideOne(d *duplicate) error {
	if d.moved == "" {
		to, err := a.move(a.claimPath(d.id, d.name), layout.Duplicate, d.queue, d.name, func(to string) error { return a.noteSetAside(d, to) })
		if err != nil && a.isGone(d.id, d.name) {
			if to, err = a.wentTo(d.id); to == "" || err != nil {
				return err // somebody took it away
			}
		}
		if full := (*durable.FullError)(nil); errors.As(err, &full) {
			return err // the inbox is
		}
		if err != nil {
			return durable.Full(a.archiveDir, d.bytes, err)
		}
		d.moved = to
		faults.Crash("duplicate.moved")
	}
	if err := a.noteDuplicate(d); err != nil {
		return durable.Full(a.archiveDir, d.bytes, err)
	}
	a.log.Info().Str("name", d.name.String()).Str("batch", d.of).Msg("same file as another batch; set aside")
	return nil
}

// departed deals with what became of a duplicate.
func (in *Inbox) departed(d departure) {
	c := in.claims[slices.IndexFunc(in.claims, func(c *claim) bool { return c.duplicate == d.duplicate })]
	c.leaving = false
	if d.err != nil {
		in.retry(c, d.err)
		return
	}
	in.release(c)
}

// duplicateFile stands beside a claimed file that is on its way out, for a crash between its move and its note.
const duplicateFile = ".duplicate"

// setAsideNote is what duplicateFile holds.
type setAsideNote struct {
	Name  store.FileName `json:"name"`
	Queue string         `json:"queue"`
	Of    string         `json:"duplicate_of"`
	As    store.FileName `json:"as"` // its name in the archive
}

func (n *setAsideNote) isValid() bool {
	for _, name := range []store.FileName{n.Name, n.As} {
		if !isBatch(string(name)) || filepath.Base(string(name)) != string(name) {
			return false
		}
	}
	return n.Queue == "" || layout.IsQueue(n.Queue)
}

// noteSetAside says of a claim that its file is about to get a name in the archive.
func (a *archiver) noteSetAside(d *duplicate, to string) error {
	b, err := json.Marshal(setAsideNote{d.name, d.queue, d.of, store.FileName(filepath.Base(to))})
	if err != nil {
		return fmt.Errorf("encode note in claim: %w", err)
	}
	return durable.Full(a.inboxDir, int64(len(b)), durable.WriteFile(a.fs, a.claimPath(d.id, duplicateFile), b, 0o664))
}

// dropHalfSetAside removes half a copy of a file that was to be set aside when a crash came, and was no duplicate any more
// at the next start.
func (a *archiver) dropHalfSetAside(id, queue string) error {
	if _, err := a.fs.Lstat(a.claimPath(id, duplicateFile)); err != nil {
		return ignoreMissing(err)
	}
	return a.dropHalf(id, layout.Duplicate, queue)
}

// wentTo is where a duplicate is that an attempt before moved away, and could not say so; "" if there is none.
func (a *archiver) wentTo(id string) (string, error) {
	d, err := a.movedDuplicate(id)
	if d == nil || err != nil {
		return "", err
	}
	return d.moved, nil
}

// movedDuplicate returns the duplicate that was moved out of a claim before a crash; nil if there is none. It gets its
// note, also if it seems to have one: who wrote that may have died before its name was durable.
func (f *folders) movedDuplicate(id string) (*duplicate, error) {
	note, err := f.readSetAside(id)
	if note == nil || err != nil {
		return nil, err
	}
	to := filepath.Join(f.archiveDir, layout.Duplicate, note.Queue, string(note.As))
	if _, err := f.fs.Lstat(to); errors.Is(err, fs.ErrNotExist) { // somebody took the file away, maybe while it was copied
		return nil, f.dropHalf(id, layout.Duplicate, note.Queue)
	} else if err != nil {
		return nil, err
	}
	return &duplicate{id: id, queue: note.Queue, name: note.Name, of: note.Of, moved: to}, nil
}

// readSetAside returns the note of a claim on its way out, nil if there is none.
func (f *folders) readSetAside(id string) (*setAsideNote, error) {
	b, err := durable.ReadFile(f.fs, f.claimPath(id, duplicateFile))
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var note setAsideNote
	if err := json.Unmarshal(b, &note); err != nil || !note.isValid() {
		return nil, nil // somebody else's, or half written, before the move
	}
	return &note, nil
}

// copiedAside returns the note of a claim whose copy had its name on another filesystem when a crash came, nil if that is
// not so. It stays one, also if its batch has ended by now: with the copy it was set aside.
func (f *folders) copiedAside(id string, name store.FileName) (*setAsideNote, error) {
	note, err := f.readSetAside(id)
	if note == nil || err != nil {
		return nil, err
	}
	to, err := f.copied(f.claimPath(id, name), filepath.Join(f.archiveDir, layout.Duplicate, note.Queue))
	if to == "" || err != nil {
		return nil, err
	}
	return note, nil
}

func (a *archiver) noteDuplicate(d *duplicate) error {
	note := struct {
		SchemaVersion int            `json:"schema_version"`
		Name          store.FileName `json:"name"`
		Queue         string         `json:"queue"`
		DuplicateOf   string         `json:"duplicate_of"`
		Message       string         `json:"message"`
	}{1, d.name, d.queue, d.of, "the same file is batch " + d.of + "; this copy was not run"}
	b, err := json.Marshal(note, jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("encode duplicate note: %w", err)
	}
	return durable.WriteFile(a.fs, noteBeside(d.moved), append(b, '\n'), 0o664)
}

// noteBeside is the name of a duplicate's note.
func noteBeside(path string) string {
	stem, _, _ := store.SplitInputName(filepath.Base(path))
	return filepath.Join(filepath.Dir(path), stem+store.SuffixDuplicate)
}
