package inbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/store"
	"stoker/store/durable"
	"stoker/store/faults"
)

// archiveEnded moves the inputs of ended batches out of .processing. What cannot be moved now is tried again.
func (in *Inbox) archiveEnded() {
	left := in.archive[:0]
	for _, r := range in.archive {
		if err := in.archiveOne(r); err != nil {
			in.o.Logger.Warn().Err(err).Str("batch", r.ID).Msg("cannot archive; trying again")
			left = append(left, r)
		}
	}
	in.archive = left
}

func (in *Inbox) archiveOne(r *store.Record) error {
	folder := "done"
	if r.State == store.Failed {
		folder = "failed"
	}
	to, err := in.move(in.claimPath(r.ID, r.Input.Name), folder, r.Queue, r.Input.Name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a missing one was moved before a crash, or taken away
		return fmt.Errorf("archive %s: %w", r.Input.Name, err)
	}
	faults.Crash("archive.moved")
	in.dropClaimDir(r.ID)
	if err := in.o.Store.SetArchived(r.ID); err != nil {
		return err
	}
	faults.Crash("archive.recorded")
	in.o.Logger.Debug().Str("batch", r.ID).Str("path", to).Msg("input is archived")
	return nil
}

// move puts a file into a folder of the archive under its name, or the next free one: x~2.jsonl.
func (in *Inbox) move(from, folder, queue string, name store.FileName) (string, error) {
	if _, err := os.Lstat(from); err != nil {
		return "", err
	}
	dir := filepath.Join(in.o.Archive, folder, queue)
	if err := durable.MkdirAll(dir, 0o775); err != nil {
		return "", err
	}
	for n := 1; ; n++ {
		to := filepath.Join(dir, numbered(string(name), n))
		err := durable.Move(from, to)
		if !errors.Is(err, fs.ErrExist) {
			return to, err
		}
	}
}

func numbered(name string, n int) string {
	if n == 1 {
		return name
	}
	at := strings.LastIndex(strings.ToLower(name), ".jsonl")
	return name[:at] + "~" + strconv.Itoa(n) + name[at:]
}

// setAside moves a duplicate away, with a note that names the batch that it is one of.
func (in *Inbox) setAside(c *claim, of string) {
	to, err := in.move(in.claimPath(c.id, c.name), "duplicate", c.queue, c.name)
	if err == nil {
		err = in.noteDuplicate(to, c, of)
	}
	if err != nil {
		c.reason, c.due = err.Error(), c.due.Add(maxRetry)
		in.o.Logger.Warn().Err(err).Str("name", c.name.String()).Msg("cannot set duplicate aside; trying again")
		return
	}
	in.o.Logger.Info().Str("name", c.name.String()).Str("batch", of).Msg("same file as a batch that has not ended; set aside")
	delete(in.claims, c.id)
	in.dropClaimDir(c.id)
}

func (in *Inbox) noteDuplicate(moved string, c *claim, of string) error {
	stem, _, _ := store.SplitInputName(filepath.Base(moved))
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
	return durable.WriteFile(filepath.Join(filepath.Dir(moved), stem+store.SuffixDuplicate), append(b, '\n'), 0o664)
}
