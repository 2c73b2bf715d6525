package outbox

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"stoker/store"
	"stoker/store/durable"
)

// Note is what NAME.status.txt tells the people who have only the share.
type Note struct {
	Queue  string
	Name   store.FileName
	ID     string
	State  store.State
	Reason string // why it waits; "" if it does not
	Done   uint32
	Failed uint32
	Total  uint32
	ETA    time.Duration // 0: not known
}

// NotesEvery is how often NAME.status.txt is replaced at most.
const NotesEvery = 30 * time.Second

// SetNotes hands over what some notes are to say; they are written by the goroutine of Run, because the share may hang.
// Each call must come after the one before, with what is true at its start or later.
func (p *Publisher) SetNotes(notes []Note) {
	p.mu.Lock()
	for _, n := range notes {
		if p.settings.Notes && !p.gone[n.ID] {
			p.notes[n.ID] = n
		}
	}
	clear(p.gone)
	wanted := len(p.notes) > 0
	p.mu.Unlock()
	if wanted {
		p.signal()
	}
}

func (p *Publisher) writeNotes() {
	p.mu.Lock()
	notes := p.notes
	p.notes = map[string]Note{}
	p.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(notes)) { // the oldest batch's first
		if err := p.writeNote(notes[id]); err != nil {
			p.o.Logger.Debug().Err(err).Str("batch", id).Msg("cannot write status note")
		}
	}
}

func (p *Publisher) noteTemp(queue, id string) string {
	return filepath.Join(p.o.Dir, queue, store.TempPrefix+id+store.SuffixStatus+".tmp")
}

// writeNote replaces a note, and nothing else. Unlike a result it is not synced: after a power cut it is written again.
func (p *Publisher) writeNote(n Note) error {
	dir := filepath.Join(p.o.Dir, n.Queue)
	if _, err := p.o.FS.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := durable.MkdirAll(p.o.FS, dir, 0o775); err != nil {
			return err
		}
	}
	note := p.note(n.Queue, n.Name)
	put := p.o.FS.RenameNew
	if ours, err := p.isNoteOf(note, n.ID); err != nil {
		return err
	} else if ours {
		put = p.o.FS.Rename
	}
	tmp := p.noteTemp(n.Queue, n.ID)
	f, err := p.create(tmp)
	if err != nil {
		return err
	}
	_, err = f.WriteString(n.text(time.Now()))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = put(tmp, note)
	}
	if err != nil {
		p.o.FS.Remove(tmp)
	}
	return err
}

func (p *Publisher) note(queue string, name store.FileName) string {
	return filepath.Join(p.o.Dir, queue, string(name)+store.SuffixStatus)
}

// heading is a note's first line, by which stoker knows it again.
func heading(id string) string { return "batch:  " + id + "\n" }

// maxNote is more than a note has.
const maxNote = 1 << 16

// isNoteOf reports whether a file is the note of a batch, and not somebody's file that has its name. A note is not synced, so
// that what a power cut leaves of one counts as well: its beginning, or zeros, or nothing.
func (p *Publisher) isNoteOf(path, id string) (bool, error) {
	f, err := durable.OpenRegular(p.o.FS, path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, durable.ErrNotRegular) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxNote))
	if err != nil {
		return false, err
	}
	left := strings.TrimRight(string(text), "\x00")
	return strings.HasPrefix(left, heading(id)) || len(text) < maxNote && strings.HasPrefix(heading(id), left), nil
}

func (n Note) text(now time.Time) string {
	s := fmt.Sprintf("%sstate:  %s\n", heading(n.ID), n.State)
	if n.Reason != "" {
		s += "reason: " + n.Reason + "\n"
	}
	s += fmt.Sprintf("done:   %d of %d", n.Done, n.Total)
	if n.Failed > 0 {
		s += fmt.Sprintf(" (%d failed)", n.Failed)
	}
	s += "\n"
	if n.ETA > 0 {
		s += "ready:  about " + now.Add(n.ETA).Format("2006-01-02 15:04 -07:00") + "\n"
	}
	return s + "as of:  " + now.Format("2006-01-02 15:04:05 -07:00") + "\n"
}

// removeNote takes a batch's note away. A fault of the share is waited out, or the note would stay for ever; what others did to
// the folder is no reason to keep a batch from ending.
func (p *Publisher) removeNote(b *store.Batch) error {
	note := p.note(b.Meta.Queue, b.Meta.Name)
	ours, err := p.isNoteOf(note, b.Meta.ID)
	if err == nil && ours {
		err = ignoreMissing(p.o.FS.Remove(note))
	}
	for _, err := range []error{err, ignoreMissing(p.o.FS.Remove(p.noteTemp(b.Meta.Queue, b.Meta.ID)))} {
		if err != nil && !isOthersDoing(err) {
			return onShare(err)
		}
		if err != nil {
			p.o.Logger.Warn().Err(err).Str("batch", b.Meta.ID).Msg("cannot remove status note")
		}
	}
	return nil
}

// isOthersDoing tells what somebody did to a folder, which waiting does not end, from faults of the share.
func isOthersDoing(err error) bool {
	return errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EISDIR)
}

// endNote removes the note of a batch whose publication was complete when a crash came: it may have got one since.
func (p *Publisher) endNote(b *store.Batch) error {
	if err := p.removeNote(b); err != nil {
		return err
	}
	return onShare(ignoreMissing(durable.SyncDir(p.o.FS, filepath.Join(p.o.Dir, b.Meta.Queue))))
}

// dropNotes forgets the notes of a batch that has ended, also those still to be handed over. p.mu is held.
func (p *Publisher) dropNotes(id string) {
	delete(p.notes, id)
	p.gone[id] = true
}
