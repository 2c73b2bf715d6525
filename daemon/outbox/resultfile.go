package outbox

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"hash"
	"io/fs"

	"stoker/store"
	"stoker/store/durable"
)

// partial marks a temporary file that is being written. Only a whole one loses it, so that a crash while a file is
// written again does not publish half of it.
const partial = ".part"

// resultFile is a result file being written, digest and all.
type resultFile struct {
	fs     durable.FS
	suffix string
	path   string // once it is whole
	f      durable.File
	w      *bufio.Writer
	hash   hash.Hash
	bytes  int64
	lines  int64
}

func (e *edition) create(suffix string) (*resultFile, error) {
	path := e.temp(suffix)
	f, err := e.p.create(path + partial)
	if err != nil {
		return nil, onShare(err)
	}
	return &resultFile{fs: e.p.o.FS, suffix: suffix, path: path, f: f, w: bufio.NewWriterSize(f, 1<<20), hash: sha256.New()}, nil
}

// create makes a new file with the mode and group of result files. It follows no link that somebody put there: the
// outbox may be anybody's to write to.
func (p *Publisher) create(path string) (durable.File, error) {
	f, err := durable.Create(p.o.FS, path, 0o600)
	if err != nil {
		return nil, err
	}
	err = f.Chmod(p.o.Mode)
	if err == nil && p.o.Group >= 0 {
		err = f.Chown(-1, p.o.Group)
	}
	if err != nil {
		f.Close()
		p.o.FS.Remove(path)
		return nil, err
	}
	return f, nil
}

func (w *resultFile) line(b []byte) error {
	w.lines++
	return errors.Join(w.write(b), w.write([]byte{'\n'}))
}

func (w *resultFile) write(b []byte) error {
	w.hash.Write(b)
	w.bytes += int64(len(b))
	_, err := w.w.Write(b)
	return onShare(err)
}

// finish makes the file durable under its temporary name.
func (w *resultFile) finish() (store.PublishedFile, error) {
	err := w.w.Flush()
	if err == nil {
		err = w.f.Sync()
	}
	if err != nil {
		return store.PublishedFile{}, onShare(err) // abort does the rest
	}
	err = w.f.Close() // NFS reports a full disk here
	if err == nil {
		err = w.fs.Rename(w.f.Name(), w.path)
	}
	if err != nil {
		w.fs.Remove(w.f.Name())
	}
	w.f = nil
	return w.published(), onShare(err)
}

// published is what the file is once it is published.
func (w *resultFile) published() store.PublishedFile {
	return store.PublishedFile{Suffix: w.suffix, SHA256: durable.Sum(w.hash), Bytes: w.bytes}
}

// abort removes the file unless it was finished.
func (w *resultFile) abort() {
	if w.f != nil {
		w.f.Close()
		w.fs.Remove(w.f.Name())
	}
}

func (e *edition) writeBytes(suffix string, b []byte) error {
	w, err := e.create(suffix)
	if err != nil {
		return err
	}
	defer w.abort()
	if err := w.write(b); err != nil {
		return err
	}
	_, err = w.finish()
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
