package store

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path/filepath"

	"stoker/store/durable"
	"stoker/store/journal"
)

// checkPublished proves that the result files are those that the publish frame recorded, and that they are the journal's
// records and nothing else.
func (v *verifier) checkPublished(ctx context.Context) error {
	name, p := v.batch.journal.Name(), v.batch.publication
	switch {
	case p == nil && v.lost > 0:
		return nil // it stood where the journal is damaged
	case p == nil:
		v.broken(PublishedAs, name, 0, "the batch has ended, but was never published")
		return nil
	case !v.batch.published:
		v.broken(PublishedAs, name, 0, "the batch has ended, but the publication was never completed")
	}
	if err := v.checkContents(ctx, p); err != nil {
		return err
	}
	v.checkBatchObject(p)
	return nil
}

// resultPath is where a result file was published.
func (v *verifier) resultPath(p *Publication, suffix string) string {
	return filepath.Join(v.folders.Outbox, v.record.Queue, string(p.Name)+suffix)
}

// matches reports whether a published file is what was recorded. One that was taken away is only noted.
func (v *verifier) matches(path string, want durable.SHA256) bool {
	got, _, err := durable.Hash(v.folders.FS, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		v.note(path, "was taken away")
	case err != nil:
		v.broken(PublishedAs, path, 0, "%v", err)
	default:
		return got == want
	}
	return true
}

// checkBatchObject proves that NAME.batch.json is what the publish frame holds.
func (v *verifier) checkBatchObject(p *Publication) {
	path := v.resultPath(p, SuffixBatch)
	if v.matches(path, durable.SumBytes(p.Batch)) {
		return
	}
	c := v.compare(path)
	defer c.close()
	for line := range bytes.Lines(p.Batch) {
		c.line(bytes.TrimSuffix(line, []byte{'\n'}))
	}
	v.tellDifference(c)
}

// comparison finds the first line at which a published file is not what it was.
type comparison struct {
	path   string
	f      durable.File
	r      *bufio.Reader
	lines  int64  // that are equal
	differ string // how the next one does, "" while none does
}

// compare opens a file that does not match its hash; one that cannot be opened any more differs from its start.
func (v *verifier) compare(path string) *comparison {
	f, err := durable.OpenRegular(v.folders.FS, path)
	if err != nil {
		return &comparison{path: path, differ: "cannot be read: " + err.Error()}
	}
	return &comparison{path: path, f: f, r: bufio.NewReaderSize(f, 1<<18)}
}

// line compares the next line with what it was.
func (c *comparison) line(want []byte) {
	if c.differ != "" {
		return
	}
	got, err := c.r.ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF) && len(got) == 0:
		c.differ = "is missing"
	case err != nil && !errors.Is(err, io.EOF):
		c.differ = "cannot be read: " + err.Error()
	case err != nil || !bytes.Equal(got[:len(got)-1], want):
		c.differ = "is not what was published there"
	default:
		c.lines++
	}
}

func (c *comparison) close() {
	if c.f != nil {
		c.f.Close()
	}
}

func (v *verifier) tellDifference(c *comparison) {
	v.broken(PublishedAs, c.path, c.lines+1, "does not match its hash: line %d %s", c.lines+1, cmp.Or(c.differ, "was added"))
}

// contents is a result file as the journal has it.
type contents struct {
	hash       hash.Hash
	lines      int64
	comparison *comparison // with the published file, if that does not match its hash
}

func (c *contents) line(b []byte) {
	c.hash.Write(b)
	c.hash.Write([]byte{'\n'})
	c.lines++
	if c.comparison != nil {
		c.comparison.line(b)
	}
}

// checkContents puts the result files together from the journal again and compares them with what was recorded, and
// with what is published where that is something else.
func (v *verifier) checkContents(ctx context.Context, p *Publication) error {
	files := map[string]*contents{SuffixOutput: {hash: sha256.New()}, SuffixErrors: {hash: sha256.New()}}
	for _, f := range p.Files {
		path := v.resultPath(p, f.Suffix)
		if c := files[f.Suffix]; c != nil && !v.matches(path, f.SHA256) {
			c.comparison = v.compare(path)
			defer c.comparison.close()
		}
	}
	err := v.eachRecord(p.InputOrder, func(f journal.Frame) error {
		if f.Kind == journal.KindError {
			files[SuffixErrors].line(f.Payload)
		} else {
			files[SuffixOutput].line(f.Payload)
		}
		return ctx.Err()
	})
	if err != nil {
		return err
	}
	for _, f := range p.Files {
		if c := files[f.Suffix]; c != nil && c.comparison != nil {
			v.tellDifference(c.comparison)
		}
	}
	if v.lost == 0 { // else it is known that they cannot be the same
		v.checkRecorded(p, files)
	}
	return nil
}

// checkRecorded proves that the journal's records make the files that its publish frame recorded.
func (v *verifier) checkRecorded(p *Publication, files map[string]*contents) {
	name := v.batch.journal.Name()
	for _, f := range p.Files {
		c := files[f.Suffix]
		if c == nil {
			v.broken(PublishedAs, name, 0, "%s%s is no result file", p.Name, f.Suffix)
			continue
		}
		if got := durable.Sum(c.hash); got != f.SHA256 {
			v.broken(PublishedAs, name, 0, "%s%s is not what the journal holds: %s, published was %s", p.Name, f.Suffix, got, f.SHA256)
		}
		delete(files, f.Suffix)
	}
	for suffix, c := range files {
		if c.lines > 0 {
			v.broken(PublishedAs, name, 0, "%d records belong into %s%s, which was not published", c.lines, p.Name, suffix)
		}
	}
}

// eachRecord calls visit for the first record of each request.
func (v *verifier) eachRecord(inputOrder bool, visit func(journal.Frame) error) error {
	if !inputOrder {
		return v.batch.eachResult(func(at int64, f journal.Frame) error {
			if v.offsets[f.Seq] != at {
				return nil
			}
			return visit(f)
		})
	}
	frames := v.batch.journal.Reader()
	for _, at := range v.offsets {
		if at == 0 {
			continue
		}
		f, err := frames.Read(at)
		if err != nil {
			return fmt.Errorf("read record at %d: %w", at, err)
		}
		if err := visit(f); err != nil {
			return err
		}
	}
	return nil
}
