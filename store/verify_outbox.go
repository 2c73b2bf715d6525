package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io/fs"
	"path/filepath"
	"strings"

	"stoker/store/durable"
)

// checkPublished proves that the result files are those that the publish frame recorded, and that they are the journal's
// records and nothing else.
func (v *verifier) checkPublished(ctx context.Context) error {
	dir := filepath.Join(v.folders.Outbox, v.record.Queue)
	v.checkTemporaries(dir)
	p := v.batch.publication
	if p == nil {
		v.broken(PublishedAs, v.batch.journal.f.Name(), 0, "the batch has ended, but was never published")
		return nil
	}
	if !v.batch.published {
		v.broken(PublishedAs, v.batch.journal.f.Name(), 0, "the batch has ended, but the publication was never completed")
	}
	for _, f := range p.Files {
		v.checkFile(filepath.Join(dir, string(p.Name)+f.Suffix), f.SHA256)
	}
	v.checkFile(filepath.Join(dir, string(p.Name)+SuffixBatch), durable.SumBytes(p.Batch))
	return v.checkContents(ctx, p)
}

func (v *verifier) checkFile(path string, want durable.SHA256) {
	got, _, err := durable.Hash(v.folders.FS, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.note(path, "was taken away")
	case err != nil:
		v.broken(PublishedAs, path, 0, "%v", err)
	case got != want:
		v.broken(PublishedAs, path, 0, "does not match its hash: it is %s, published was %s", got, want)
	}
}

// checkTemporaries looks for what the batch, which has ended, may have left in the outbox and in its own folder.
func (v *verifier) checkTemporaries(outbox string) {
	for _, name := range v.temporariesIn(outbox) {
		if strings.HasPrefix(name, TempPrefix+v.record.ID) {
			v.broken(NoLeftovers, filepath.Join(outbox, name), 0, "is left over from an attempt to publish")
		}
	}
	for _, name := range temporaries(v.store.fs, v.batch.dir) {
		v.broken(NoLeftovers, filepath.Join(v.batch.dir, name), 0, "is left over from a process that died")
	}
}

// temporariesIn reads each folder of the outbox once, because many batches share it.
func (v *verifier) temporariesIn(dir string) []string {
	names, known := v.temporaries[dir]
	if !known {
		names = temporaries(v.folders.FS, dir)
		v.temporaries[dir] = names
	}
	return names
}

// temporaries returns the names of temporary files in a folder. One that cannot be read has none to show.
func temporaries(fsys durable.FS, dir string) []string {
	var names []string
	entries, _ := fsys.ReadDir(dir)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") {
			names = append(names, e.Name())
		}
	}
	return names
}

// contents is a result file as the journal has it.
type contents struct {
	hash  hash.Hash
	lines int64
}

// checkContents puts the result files together from the journal again and compares digests.
func (v *verifier) checkContents(ctx context.Context, p *Publication) error {
	files := map[string]*contents{SuffixOutput: {hash: sha256.New()}, SuffixErrors: {hash: sha256.New()}}
	err := v.eachRecord(p.InputOrder, func(f Frame) error {
		c := files[SuffixOutput]
		if f.Kind == KindError {
			c = files[SuffixErrors]
		}
		c.hash.Write(f.Payload)
		c.hash.Write([]byte{'\n'})
		c.lines++
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	journal := v.batch.journal.f.Name()
	for _, f := range p.Files {
		c := files[f.Suffix]
		if c == nil {
			v.broken(PublishedAs, journal, 0, "%s%s is no result file", p.Name, f.Suffix)
			continue
		}
		if got := durable.Sum(c.hash); got != f.SHA256 {
			v.broken(PublishedAs, journal, 0, "%s%s is not what the journal holds: %s, published was %s", p.Name, f.Suffix, got, f.SHA256)
		}
		delete(files, f.Suffix)
	}
	for suffix, c := range files {
		if c.lines > 0 {
			v.broken(PublishedAs, journal, 0, "%d records belong into %s%s, which was not published", c.lines, p.Name, suffix)
		}
	}
	return nil
}

// eachRecord calls visit for the first record of each request.
func (v *verifier) eachRecord(inputOrder bool, visit func(Frame) error) error {
	j := v.batch.journal
	if !inputOrder {
		_, err := scanJournal(j.f, int64(len(journalHead)), j.offset, true, func(at int64, f Frame) error {
			if !f.Kind.IsResult() || f.Seq >= v.batch.Meta.Requests || v.offsets[f.Seq] != at {
				return nil
			}
			return visit(f)
		})
		return err
	}
	frames := frameCache{f: j.f, end: j.offset}
	for _, at := range v.offsets {
		if at == 0 {
			continue
		}
		f, err := frames.read(at)
		if err != nil {
			return fmt.Errorf("read record at %d: %w", at, err)
		}
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}
