package durable

import (
	"fmt"
	"io"
	"io/fs"
)

// Source is a file to read anywhere in.
type Source interface {
	io.ReaderAt
	Name() string
	Stat() (fs.FileInfo, error)
}

// Block is the part of a file that was read last. Where reads jump about, so that it is of little use, it is left as it is for a
// while, and they take no more than they need.
type Block struct {
	at    int64
	buf   []byte
	used  int    // reads that it answered since it was loaded
	alone int    // bytes to be read without loading another one
	one   []byte // what was last read so
	end   int64  // where the last read ended
	inRow int    // reads that each began where the one before ended
}

const (
	blockSize  = 1 << 20
	worthwhile = 8 // reads that a block should answer, at least; as many in a row promise that
)

// Read returns length bytes of f at offset, valid until the next read.
func (b *Block) Read(f Source, offset int64, length int) ([]byte, error) {
	if b.inRow++; offset != b.end {
		b.inRow = 0
	}
	b.end = offset + int64(length)
	if offset >= b.at && offset-b.at <= int64(len(b.buf)-length) {
		b.used++
		start := offset - b.at
		return b.buf[start : start+int64(length)], nil
	}
	switch {
	case b.inRow >= worthwhile:
		b.alone = 0
	case len(b.buf) > 0 && b.used < worthwhile:
		b.used, b.alone = worthwhile, blockSize // then another one is tried, which doubles what is read at most
	}
	if b.alone > 0 {
		b.alone -= length
		return b.readOne(f, offset, length)
	}
	if err := b.load(f, offset, length); err != nil {
		return nil, err
	}
	start := offset - b.at
	return b.buf[start : start+int64(length)], nil
}

// readOne reads that and nothing more.
func (b *Block) readOne(f Source, offset int64, length int) ([]byte, error) {
	b.one = fitted(b.one, length)
	if _, err := f.ReadAt(b.one, offset); err != nil {
		return nil, fmt.Errorf("read %s at %d: %w", f.Name(), offset, err)
	}
	return b.one, nil
}

// load reads the block that begins at offset; after a step back, one that begins before it, because the next read may
// go back further.
func (b *Block) load(f Source, offset int64, length int) error {
	from := offset
	if 0 <= offset && offset < b.at {
		from = max(0, offset-blockSize/2)
	}
	want := int(offset-from) + length
	size := want
	if st, err := f.Stat(); err == nil {
		size = max(want, int(min(blockSize, st.Size()-from)))
	}
	b.buf, b.used = fitted(b.buf, size), 0
	n, err := f.ReadAt(b.buf, from)
	if n < want {
		b.at, b.buf = 0, b.buf[:0]
		return fmt.Errorf("read %s at %d: %w", f.Name(), offset, err)
	}
	b.at, b.buf = from, b.buf[:n]
	return nil
}

// fitted returns a buffer of that size: the same, unless it is too small, or much too large to be kept.
func fitted(buf []byte, size int) []byte {
	if cap(buf) < size || cap(buf) > max(4*blockSize, size) {
		return make([]byte, size)
	}
	return buf[:size]
}
