package inbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
	"stoker/store/layout"
)

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
		to, err := a.in.move(a.in.claimPath(c.id, c.name), layout.Duplicate, c.queue, c.name, func(to string) error { return a.in.noteSetAside(c, to) })
		if err != nil && a.in.isGone(c.id, c.name) {
			if to, err = a.in.wentTo(c.id); to == "" || err != nil {
				return err // somebody took it away
			}
		}
		if full := (*durable.FullError)(nil); errors.As(err, &full) {
			return err // the inbox is
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
func (in *Inbox) noteSetAside(c *claim, to string) error {
	b, err := json.Marshal(setAsideNote{c.name, c.queue, c.duplicate.of, store.FileName(filepath.Base(to))})
	if err != nil {
		return fmt.Errorf("encode note in claim: %w", err)
	}
	return durable.Full(in.o.Dir, int64(len(b)), durable.WriteFile(in.o.FS, in.claimPath(c.id, duplicateFile), b, 0o664))
}

// dropHalfSetAside removes half a copy of a file that was to be set aside when a crash came, and was no duplicate any more
// at the next start.
func (in *Inbox) dropHalfSetAside(id, queue string) error {
	if _, err := in.o.FS.Lstat(in.claimPath(id, duplicateFile)); err != nil {
		return ignoreMissing(err)
	}
	return in.dropHalf(id, layout.Duplicate, queue)
}

// wentTo is where a duplicate is that an attempt before moved away, and could not say so; "" if there is none.
func (in *Inbox) wentTo(id string) (string, error) {
	c, err := in.movedDuplicate(id)
	if c == nil || err != nil {
		return "", err
	}
	return c.duplicate.moved, nil
}

// movedDuplicate returns a claim whose file was moved away as a duplicate before a crash; nil if there is none. It gets its
// note, also if it seems to have one: who wrote that may have died before its name was durable.
func (in *Inbox) movedDuplicate(id string) (*claim, error) {
	note, err := in.readSetAside(id)
	if note == nil || err != nil {
		return nil, err
	}
	to := filepath.Join(in.o.Archive, layout.Duplicate, note.Queue, string(note.As))
	if _, err := in.o.FS.Lstat(to); errors.Is(err, fs.ErrNotExist) { // somebody took the file away, maybe while it was copied
		return nil, in.dropHalf(id, layout.Duplicate, note.Queue)
	} else if err != nil {
		return nil, err
	}
	return &claim{id: id, queue: note.Queue, name: note.Name, since: time.Now(), duplicate: &setAside{note.Of, to}, reason: "set aside before a crash"}, nil
}

// readSetAside returns the note of a claim on its way out, nil if there is none.
func (in *Inbox) readSetAside(id string) (*setAsideNote, error) {
	b, err := durable.ReadFile(in.o.FS, in.claimPath(id, duplicateFile))
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var note setAsideNote
	if err := json.Unmarshal(b, &note); err != nil || !note.isValid() {
		return nil, nil // somebody else's, or half written, before the move
	}
	return &note, nil
}

// copiedAside returns what a claim is a duplicate of whose copy had its name on another filesystem when a crash came, nil
// if that is not so. It stays one, also if its batch has ended by now: with the copy it was set aside.
func (in *Inbox) copiedAside(id string, name store.FileName) (*setAside, error) {
	note, err := in.readSetAside(id)
	if note == nil || err != nil {
		return nil, err
	}
	to, err := in.copied(in.claimPath(id, name), filepath.Join(in.o.Archive, layout.Duplicate, note.Queue))
	if to == "" || err != nil {
		return nil, err
	}
	return &setAside{of: note.Of}, nil
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
