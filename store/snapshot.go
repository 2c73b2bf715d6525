package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/store/batchfile"
	"stoker/store/dedupe"
	"stoker/store/durable"
)

const (
	inputFile   = "input.jsonl"
	indexFile   = "input.idx"
	journalFile = "journal"
)

// maxLines is how many lines a batch file may have: requests and lines are numbered in 32 bits.
const maxLines = math.MaxUint32

// takeSnapshot copies the claimed file into dir, decoded, with its line index; both are synced.
func takeSnapshot(ctx context.Context, fsys durable.FS, dir string, a Admission) (*Meta, error) {
	src, err := durable.OpenRegular(a.FS, a.Path)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	before, err := src.Stat()
	if err != nil {
		return nil, err
	}
	name := FileName(filepath.Base(a.Path))
	_, compression, ok := SplitInputName(string(name))
	if !ok {
		return nil, fmt.Errorf("%q is no name of a batch file", name)
	}
	defaults, err := encodeDefaults(a.Defaults)
	if err != nil {
		return nil, err
	}
	snap := &snapshot{fs: fsys, admission: a, meta: &Meta{
		Schema: metaSchema, ID: a.ID, Queue: a.Queue, CreatedAt: now(), Defaults: defaults, MaxLine: a.MaxLine, Metadata: a.Metadata,
		Input: Input{Name: name, Compression: compression, Bytes: before.Size(), ModTime: before.ModTime().UnixNano()},
	}}
	if err := snap.take(ctx, dir, src, compression); err != nil {
		return nil, err
	}
	if err := unchanged(a.FS, a.Path, before); err != nil {
		return nil, err
	}
	return snap.meta, nil
}

// unchanged returns ErrChanged if the file is no longer what it was.
func unchanged(fsys durable.FS, path string, before fs.FileInfo) error {
	after, err := fsys.Lstat(path)
	if err != nil {
		return err
	}
	if !durable.SameFile(before, after) || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return ErrChanged
	}
	return nil
}

// encodeDefaults returns nil for none. They are kept as JSON, because numbers that are read back lose digits.
func encodeDefaults(defaults map[string]any) (jsontext.Value, error) {
	if len(defaults) == 0 {
		return nil, nil
	}
	b, err := json.Marshal(defaults, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode defaults: %w", err)
	}
	return b, nil
}

// snapshot is one copy under way.
type snapshot struct {
	fs        durable.FS // of the state folder
	admission Admission
	meta      *Meta
	parser    batchfile.Parser
	ids       *dedupe.Finder
	index     *indexWriter
	models    map[string]struct{}
	line      []byte // buffer to read a line back
	decoded   int64  // bytes of the lines that were copied
}

func (s *snapshot) take(ctx context.Context, dir string, src io.Reader, c batchfile.Compression) (err error) {
	out, err := s.fs.OpenFile(filepath.Join(dir, inputFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if s.index, err = createIndex(s.fs, filepath.Join(dir, indexFile)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.index.f.Close()) }()
	s.ids = dedupe.New(func() (dedupe.File, error) { return s.fs.Scratch(dir) }, dedupe.DefaultChunk)
	defer s.ids.Close()

	digest, read := sha256.New(), &contextReader{ctx: ctx, r: src}
	raw := io.TeeReader(read, digest)
	if err := s.copyLines(raw, c, out); err != nil {
		return s.sized(dir, read.n, err)
	}
	if err := s.finish(out, raw, digest); err != nil {
		return s.sized(dir, read.n, err)
	}
	if err := out.Sync(); err != nil {
		return fmt.Errorf("sync snapshot: %w", err)
	}
	if err := s.index.f.Sync(); err != nil {
		return fmt.Errorf("sync line index: %w", err)
	}
	return nil
}

// copyLines decodes raw into out and indexes its lines. A stream that cannot be decoded to its end sets Refused, or is
// ErrTruncated while more may come.
func (s *snapshot) copyLines(raw io.Reader, c batchfile.Compression, out io.Writer) error {
	decoded, err := batchfile.Decode(raw, c)
	if err != nil {
		return s.badStream(err)
	}
	defer decoded.Close()
	w := bufio.NewWriterSize(out, 1<<20)
	lines := batchfile.NewSplitter(io.TeeReader(decoded, w), int(s.admission.MaxLine))
	judge := newJudge(s.ids, s.add)
	for {
		line, err := lines.Next()
		switch {
		case err == nil && s.tooMany(line):
		case err == nil:
			s.decoded = line.Offset + line.Length
			if err := judge.add(line); err != nil {
				return err
			}
			continue
		case errors.Is(err, io.EOF):
			if !lines.EndsWithNewline() && !s.admission.Complete {
				return ErrNoNewline
			}
		case errors.Is(err, batchfile.ErrUTF16):
			s.refuse("invalid_encoding", "the file is UTF-16; it must be UTF-8", 0)
			_, err := io.Copy(io.Discard, io.TeeReader(decoded, w)) // the rest, for the digest
			return errors.Join(err, w.Flush())
		default:
			if err := s.badStream(err); err != nil {
				return err
			}
		}
		return errors.Join(judge.finish(), w.Flush())
	}
}

// badStream decides on an error of reading: the disk's are the caller's, the compression's are the file's fault.
func (s *snapshot) badStream(err error) error {
	var corrupt *batchfile.StreamError
	if !errors.As(err, &corrupt) {
		return err
	}
	if corrupt.Truncated && !s.admission.Complete {
		return ErrTruncated
	}
	s.refuse("invalid_encoding", corrupt.Error(), 0)
	return nil
}

func (s *snapshot) refuse(code, message string, line int64) {
	s.meta.Refused = &Refusal{Code: code, Message: message, Line: line}
}

// tooMany refuses the file at the first line that has no number.
func (s *snapshot) tooMany(line batchfile.Line) bool {
	if line.Number <= maxLines {
		return false
	}
	s.refuse("invalid_request", fmt.Sprintf("the file has more than %d lines", int64(maxLines)), line.Number)
	return true
}

// add enters a line into the index and the books.
func (s *snapshot) add(v *verdict) error {
	seq := s.index.n
	if err := s.index.add(v.row); err != nil {
		return err
	}
	if v.row.flags&rowInvalid != 0 {
		s.meta.Invalid++
		return nil
	}
	if s.meta.Endpoint == "" {
		s.meta.Endpoint = v.url
	}
	if _, known := s.models[v.model]; !known && v.model != "" && len(s.models) < maxModels {
		if s.models == nil {
			s.models = map[string]struct{}{}
		}
		s.models[v.model] = struct{}{}
		s.meta.Models = append(s.meta.Models, v.model)
	}
	return s.ids.Add(v.id, seq)
}

// finish marks repeated ids, drains what the decoder left of the file so that the digest covers all of it, and fills meta.
func (s *snapshot) finish(out durable.File, raw io.Reader, digest hash.Hash) error {
	if _, err := io.Copy(io.Discard, raw); err != nil {
		return err
	}
	if err := s.index.w.Flush(); err != nil {
		return err
	}
	if err := s.markDuplicates(out); err != nil {
		return err
	}
	st, err := out.Stat()
	if err != nil {
		return err
	}
	m := s.meta
	m.Input.Snapshot = st.Size()
	m.Input.SHA256 = durable.Sum(digest)
	m.Requests = s.index.n
	switch {
	case m.Refused != nil:
	case m.Requests == 0:
		s.refuse("empty_file", "the file has no request", 0)
	case m.Invalid == m.Requests:
		s.refuse("invalid_request", "no line of the file is a valid request", 0)
	case s.admission.Strict && m.Invalid > 0:
		s.refuse("invalid_request", fmt.Sprintf("%d of %d lines are invalid, and inbox.strict is set", m.Invalid, m.Requests), 0)
	}
	return nil
}

func (s *snapshot) markDuplicates(out durable.File) error {
	same := func(a, b uint32) (bool, error) {
		x, err := s.customID(out, a)
		if err != nil {
			return false, err
		}
		y, err := s.customID(out, b)
		return x == y, err
	}
	return s.ids.Duplicates(same, func(seq, first uint32) error {
		s.meta.Invalid++
		return s.index.markDuplicate(seq, first)
	})
}

// customID reads a request's id back. It reads no more than the line, because candidates stand anywhere in the file.
func (s *snapshot) customID(out durable.File, seq uint32) (string, error) {
	w, err := readRow(s.index.f, seq)
	if err != nil {
		return "", err
	}
	s.line = slices.Grow(s.line[:0], int(w.length))[:w.length]
	if _, err := out.ReadAt(s.line, w.offset); err != nil {
		return "", fmt.Errorf("read back line %d: %w", w.line, err)
	}
	req, err := s.parser.Parse(s.line, int64(w.line))
	return req.CustomID, err
}

// contextReader stops a long copy when the daemon stops.
type contextReader struct {
	ctx context.Context
	r   io.Reader
	n   int64 // bytes read
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
