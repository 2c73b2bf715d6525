package store

import (
	"bufio"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/klauspost/compress/zstd"
	"go.etcd.io/bbolt"

	"stoker/store/batchfile"
	"stoker/store/dedupe"
	"stoker/store/durable"
	"stoker/store/faults"
)

var (
	// ErrTruncated means that an input's compressed stream ends early: more may come.
	ErrTruncated = errors.New("compressed stream is cut off")
	// ErrNoNewline means that an input's last line has no end: more may come.
	ErrNoNewline = errors.New("last line has no newline")
	// ErrChanged means that an input changed while it was copied.
	ErrChanged = errors.New("file changed while it was copied")
)

// Duplicate means that a batch with the same queue, name and bytes has not ended. It is an error so that Admit can
// return it.
type Duplicate struct{ Of string }

func (d *Duplicate) Error() string { return "same file as batch " + d.Of + ", which has not ended" }

// Admission is a claimed file that is to become a batch.
type Admission struct {
	ID       string // as claimed
	Path     string // of the claimed file
	Queue    string
	Defaults map[string]any
	Metadata map[string]string
	MaxLine  int64 // bytes
	Strict   bool  // refuse the batch for one bad line
	// Complete says that nothing more is expected: a cut-off stream is refused and a last line without newline taken,
	// instead of ErrTruncated and ErrNoNewline.
	Complete bool
	// NameTaken reports whether the outbox already holds result files of this name.
	NameTaken func(queue string, name FileName) (bool, error)
	// SkipEnded makes a batch that has ended count as one that this file duplicates.
	SkipEnded bool
}

// maxModels bounds the list of models that a batch's requests name.
const maxModels = 32

// Admit makes a claimed file a batch: it copies the file into the state folder while hashing, counting and indexing it,
// reserves a name for its results and commits it. Once it returns the inbox may vanish. Errors that ask for patience are
// ErrTruncated, ErrNoNewline and ErrChanged; a *Duplicate asks for moving the file away. A file without a valid line
// becomes a batch too, with Meta.Refused set.
func (s *Store) Admit(ctx context.Context, a Admission) (*Record, error) {
	dir := s.batchDir(a.ID)
	if err := os.RemoveAll(dir); err != nil { // what an admission that a crash cut off left behind
		return nil, fmt.Errorf("admit %s: %w", a.Path, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("admit %s: %w", a.Path, err)
	}
	r, err := s.admit(ctx, dir, a)
	if err != nil {
		os.RemoveAll(dir)
		return nil, fmt.Errorf("admit %s: %w", a.Path, err)
	}
	return r, nil
}

func (s *Store) admit(ctx context.Context, dir string, a Admission) (*Record, error) {
	m, err := takeSnapshot(ctx, dir, a)
	if err != nil {
		return nil, err
	}
	if of, err := s.findDuplicate(a, m.Input); err != nil {
		return nil, err
	} else if of != "" {
		return nil, &Duplicate{Of: of}
	}
	stem, _, _ := SplitInputName(string(m.Input.Name))
	m.Name, err = s.reserveName(a.Queue, FileName(stem), a.NameTaken)
	if err != nil {
		return nil, err
	}
	defer s.unreserve(a.Queue, m.Name) // bbolt holds it from here on
	j, err := createJournal(filepath.Join(dir, journalFile))
	if err != nil {
		return nil, err
	}
	err = j.f.Sync()
	if cerr := j.close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("create journal: %w", err)
	}
	if err := writeMeta(dir, m); err != nil { // syncs dir
		return nil, err
	}
	if err := durable.SyncDir(filepath.Dir(dir)); err != nil {
		return nil, err
	}
	faults.Crash("admit.snapshot-synced")
	return s.accept(m)
}

func (s *Store) accept(m *Meta) (*Record, error) {
	r := newRecord(m)
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := tx.Bucket(bucketNames).Put(nameKey(m.Queue, m.Name), []byte(m.ID)); err != nil {
			return err
		}
		if err := tx.Bucket(bucketActive).Put(activeKey(m.Queue, m.Input), []byte(m.ID)); err != nil {
			return err
		}
		return putRecord(tx, r)
	})
	if err != nil {
		return nil, fmt.Errorf("commit: %w", err)
	}
	faults.Crash("admit.accepted")
	return r, nil
}

func (s *Store) findDuplicate(a Admission, in Input) (string, error) {
	of, err := s.FindActive(a.Queue, in)
	if err != nil || of != "" || !a.SkipEnded {
		return of, err
	}
	all, err := s.List()
	if err != nil {
		return "", err
	}
	for _, r := range all {
		if r.Queue == a.Queue && r.Input.Name == in.Name && r.Input.SHA256 == in.SHA256 {
			return r.ID, nil
		}
	}
	return "", nil
}

// reserveName finds a free name: NAME, NAME~2, NAME~3, … It stays reserved until unreserve.
func (s *Store) reserveName(queue string, name FileName, taken func(string, FileName) (bool, error)) (FileName, error) {
	for n := 1; ; n++ {
		candidate := name
		if n > 1 {
			candidate += FileName("~" + strconv.Itoa(n))
		}
		if !s.tryReserve(queue, candidate) {
			continue
		}
		exists, err := taken(queue, candidate)
		if err == nil && !exists {
			return candidate, nil
		}
		s.unreserve(queue, candidate)
		if err != nil {
			return "", fmt.Errorf("reserve name %q: %w", candidate, err)
		}
	}
}

func (s *Store) tryReserve(queue string, name FileName) bool {
	key := nameKey(queue, name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, busy := s.reserved[string(key)]; busy {
		return false
	}
	used := false
	s.db.View(func(tx *bbolt.Tx) error {
		used = tx.Bucket(bucketNames).Get(key) != nil
		return nil
	})
	if !used {
		s.reserved[string(key)] = struct{}{}
	}
	return !used
}

func (s *Store) unreserve(queue string, name FileName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.reserved, string(nameKey(queue, name)))
}

const (
	inputFile   = "input.jsonl"
	indexFile   = "input.idx"
	journalFile = "journal"
)

// takeSnapshot copies the claimed file into dir, decoded, with its line index; both are synced.
func takeSnapshot(ctx context.Context, dir string, a Admission) (*Meta, error) {
	src, err := os.Open(a.Path)
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
	snap := &snapshot{admission: a, meta: &Meta{
		Schema: 1, ID: a.ID, Queue: a.Queue, CreatedAt: now(), Defaults: a.Defaults, MaxLine: a.MaxLine, Metadata: a.Metadata,
		Input: Input{Name: name, Compression: compression, Bytes: before.Size(), ModTime: before.ModTime().UnixNano()},
	}}
	if err := snap.take(ctx, dir, src, compression); err != nil {
		return nil, err
	}
	after, err := os.Stat(a.Path)
	if err != nil {
		return nil, err
	}
	if !os.SameFile(before, after) || after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return nil, ErrChanged
	}
	return snap.meta, nil
}

// snapshot is one copy under way.
type snapshot struct {
	admission Admission
	meta      *Meta
	parser    batchfile.Parser
	ids       *dedupe.Finder
	index     *indexWriter
	models    map[string]struct{}
}

func (s *snapshot) take(ctx context.Context, dir string, src io.Reader, c Compression) (err error) {
	out, err := os.OpenFile(filepath.Join(dir, inputFile), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if s.index, err = createIndex(filepath.Join(dir, indexFile)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.index.f.Close()) }()
	s.ids = dedupe.New(dir, dedupe.DefaultChunk)
	defer s.ids.Close()

	digest := sha256.New()
	raw := io.TeeReader(&contextReader{ctx, src}, digest)
	if err := s.copyLines(raw, c, out); err != nil {
		return err
	}
	if err := s.finish(out, raw, digest); err != nil {
		return err
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
func (s *snapshot) copyLines(raw io.Reader, c Compression, out io.Writer) error {
	decoded, err := decode(raw, c)
	if err != nil {
		return s.badStream(err)
	}
	defer decoded.Close()
	w := bufio.NewWriterSize(out, 1<<20)
	lines := batchfile.NewSplitter(io.TeeReader(decoded, w), int(s.admission.MaxLine))
	for {
		line, err := lines.Next()
		switch {
		case err == nil:
			if err := s.addLine(line); err != nil {
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
		return w.Flush()
	}
}

// badStream decides on an error of reading: the disk's are the caller's, the compression's are the file's fault.
func (s *snapshot) badStream(err error) error {
	var corrupt *streamError
	if !errors.As(err, &corrupt) {
		return err
	}
	if corrupt.truncated && !s.admission.Complete {
		return ErrTruncated
	}
	s.refuse("invalid_encoding", corrupt.Error(), 0)
	return nil
}

func (s *snapshot) refuse(code, message string, line int64) {
	s.meta.Refused = &Refusal{Code: code, Message: message, Line: line}
}

func (s *snapshot) addLine(line batchfile.Line) error {
	r := row{offset: line.Offset, length: uint32(min(line.Length, 1<<32-1)), line: uint32(line.Number)}
	if line.TooLong {
		r.flags = rowInvalid | rowTooLong
	} else if req, err := s.parser.Parse(line.Text, line.Number); err != nil {
		r.flags = rowInvalid
	} else if err := s.addRequest(&req); err != nil {
		return err
	}
	if r.flags&rowInvalid != 0 {
		s.meta.Invalid++
	}
	return s.index.add(r)
}

func (s *snapshot) addRequest(req *batchfile.Request) error {
	if s.meta.Endpoint == "" {
		s.meta.Endpoint = req.URL
	}
	if _, known := s.models[req.Model]; !known && req.Model != "" && len(s.models) < maxModels {
		if s.models == nil {
			s.models = map[string]struct{}{}
		}
		s.models[req.Model] = struct{}{}
		s.meta.Models = append(s.meta.Models, req.Model)
	}
	return s.ids.Add(s.ids.Hash(req.CustomID), s.index.n)
}

// finish marks repeated ids, drains what the decoder left of the file so that the digest covers all of it, and fills meta.
func (s *snapshot) finish(out *os.File, raw io.Reader, digest hash.Hash) error {
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
	m.Input.SHA256 = durable.SHA256(fmt.Sprintf("%x", digest.Sum(nil)))
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

func (s *snapshot) markDuplicates(out *os.File) error {
	r := snapshotReader{input: out, index: s.index.f}
	customID := func(seq uint32) (string, error) {
		w, err := r.row(seq)
		if err != nil {
			return "", err
		}
		text, err := r.line(w)
		if err != nil {
			return "", err
		}
		req, err := s.parser.Parse(text, int64(w.line))
		return req.CustomID, err
	}
	same := func(a, b uint32) (bool, error) {
		x, err := customID(a)
		if err != nil {
			return false, err
		}
		y, err := customID(b)
		return x == y, err
	}
	return s.ids.Duplicates(same, func(seq, _ uint32) error {
		s.meta.Invalid++
		return s.index.mark(seq, rowInvalid|rowDuplicate)
	})
}

// streamError is a fault of a compressed stream.
type streamError struct {
	err       error
	truncated bool
}

func (e *streamError) Error() string { return "the compressed file cannot be read: " + e.err.Error() }
func (e *streamError) Unwrap() error { return e.err }

// decode unpacks r. The decoder's own errors come as *streamError; those of r stay as they are.
func decode(r io.Reader, c Compression) (io.ReadCloser, error) {
	src := &errorKeeper{r: r}
	switch c {
	case Gzip:
		z, err := gzip.NewReader(bufio.NewReaderSize(src, 1<<18))
		if err != nil {
			return nil, src.classify(err)
		}
		return &decoder{z, src, func() { z.Close() }}, nil
	case Zstd:
		z, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, src.classify(err)
		}
		return &decoder{z, src, z.Close}, nil
	default:
		return io.NopCloser(r), nil
	}
}

type decoder struct {
	io.Reader
	src   *errorKeeper
	close func()
}

func (d *decoder) Read(p []byte) (int, error) {
	n, err := d.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = d.src.classify(err)
	}
	return n, err
}

func (d *decoder) Close() error { d.close(); return nil }

// errorKeeper remembers an error of the source, to tell it from one of the decoder.
type errorKeeper struct {
	r   io.Reader
	err error
}

func (k *errorKeeper) Read(p []byte) (int, error) {
	n, err := k.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		k.err = err
	}
	return n, err
}

func (k *errorKeeper) classify(err error) error {
	if k.err != nil {
		return k.err
	}
	return &streamError{err: err, truncated: errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)}
}

// contextReader stops a long copy when the daemon stops.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
