package outbox

import (
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
	block  []byte // not yet written
	hash   hash.Hash
	hashed chan []byte // the block before, once it is hashed
	bytes  int64
	lines  int64
}

// blockSize is how many bytes are written at a time.
const blockSize = 1 << 20

func (e *edition) create(suffix string) (*resultFile, error) {
	path := e.temp(suffix)
	f, err := e.p.create(path + partial)
	if err != nil {
		return nil, onShare(err)
	}
	w := &resultFile{fs: e.p.o.FS, suffix: suffix, path: path, f: f, hash: sha256.New(), hashed: make(chan []byte, 1)}
	w.hashed <- nil
	return w, nil
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
	w.block = append(append(w.block, b...), '\n')
	if len(w.block) < blockSize {
		return nil
	}
	return w.flush()
}

// flush writes the block. Its digest is made meanwhile, and while the next block is put together.
func (w *resultFile) flush() error {
	written := w.block
	w.block = (<-w.hashed)[:0]
	w.bytes += int64(len(written))
	go func() {
		w.hash.Write(written)
		w.hashed <- written
	}()
	_, err := w.f.Write(written)
	return onShare(err)
}

// finish makes the file durable under its temporary name.
func (w *resultFile) finish() (store.PublishedFile, error) {
	if err := w.flush(); err != nil {
		return store.PublishedFile{}, err // abort does the rest
	}
	if err := w.f.Sync(); err != nil {
		return store.PublishedFile{}, onShare(err)
	}
	err := w.f.Close() // NFS reports a full disk here
	if err == nil {
		err = w.fs.Rename(w.f.Name(), w.path)
	}
	if err != nil {
		w.fs.Remove(w.f.Name())
	}
	w.f = nil
	return w.published(), onShare(err)
}

// published is what the file is once it is published, when all is written.
func (w *resultFile) published() store.PublishedFile {
	w.hashed <- <-w.hashed
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
	w.block = b
	_, err = w.finish()
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
