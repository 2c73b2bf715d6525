package store

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"

	"stoker/store/batchfile"
	"stoker/store/durable"
)

// A line index has one row for each request of a batch's snapshot:
//
//	0  offset of the line's first byte     8  length in bytes, without its end     12 line number from 1
//	16 flags                               20 of a duplicate: number of the first line with its custom_id
//
// All integers are little-endian.
const rowSize = 24

type rowFlags uint32

const (
	rowInvalid   rowFlags = 1 << iota // the line cannot run; parsing it again says why
	rowDuplicate                      // its custom_id stands on an earlier line
	rowTooLong                        // longer than max_line: not read again
)

type row struct {
	offset int64
	length uint32
	line   uint32
	flags  rowFlags
	first  uint32
}

func (r row) append(dst []byte) []byte {
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.offset))
	dst = binary.LittleEndian.AppendUint32(dst, r.length)
	dst = binary.LittleEndian.AppendUint32(dst, r.line)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(r.flags))
	return binary.LittleEndian.AppendUint32(dst, r.first)
}

// plausible reports whether a row can be one: no request is on a blank line, nor before the first.
func (r row) plausible() bool {
	const known = rowInvalid | rowDuplicate | rowTooLong
	isDuplicate := r.flags&rowDuplicate != 0
	return r.length > 0 && r.line > 0 && r.flags&^known == 0 && isDuplicate == (r.first > 0) && r.first < r.line
}

func parseRow(b []byte) row {
	return row{
		offset: int64(binary.LittleEndian.Uint64(b)), length: binary.LittleEndian.Uint32(b[8:]),
		line: binary.LittleEndian.Uint32(b[12:]), flags: rowFlags(binary.LittleEndian.Uint32(b[16:])),
		first: binary.LittleEndian.Uint32(b[20:]),
	}
}

// indexWriter writes rows in order; markDuplicate changes one that is already written.
type indexWriter struct {
	f   durable.File
	w   *bufio.Writer
	buf []byte
	n   uint32
}

func createIndex(fsys durable.FS, path string) (*indexWriter, error) {
	f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	return &indexWriter{f: f, w: bufio.NewWriterSize(f, 1<<18)}, nil
}

func (w *indexWriter) add(r row) error {
	w.buf = r.append(w.buf[:0])
	w.n++
	_, err := w.w.Write(w.buf)
	return err
}

func (w *indexWriter) markDuplicate(seq, firstSeq uint32) error {
	first, err := readRow(w.f, firstSeq)
	if err != nil {
		return err
	}
	r, err := readRow(w.f, seq)
	if err != nil {
		return err
	}
	r.flags |= rowInvalid | rowDuplicate
	r.first = first.line
	_, err = w.f.WriteAt(r.append(nil), int64(seq)*rowSize)
	return err
}

func readRow(f source, seq uint32) (row, error) {
	var b [rowSize]byte
	if _, err := f.ReadAt(b[:], int64(seq)*rowSize); err != nil {
		return row{}, fmt.Errorf("read line index %s, request %d: %w", f.Name(), seq, err)
	}
	return parseRow(b[:]), nil
}

// snapshotReader reads requests of a snapshot, fast in nearly the order of the lines.
type snapshotReader struct {
	input, index durable.File
	rows         block
	text         block
}

// block is the part of a file that was read last.
type block struct {
	at  int64
	buf []byte
}

const blockSize = 1 << 20

// read returns length bytes of f at offset, valid until the next read.
func (b *block) read(f source, offset int64, length int) ([]byte, error) {
	if offset < b.at || offset-b.at > int64(len(b.buf)-length) {
		if err := b.load(f, offset, length); err != nil {
			return nil, err
		}
	}
	start := offset - b.at
	return b.buf[start : start+int64(length)], nil
}

// load reads the block that begins at offset; after a step back, one that begins before it, because the next read may
// go back further.
func (b *block) load(f source, offset int64, length int) error {
	from := offset
	if 0 <= offset && offset < b.at {
		from = max(0, offset-blockSize/2)
	}
	want := int(offset-from) + length
	size := want
	if st, err := f.Stat(); err == nil {
		size = max(want, int(min(blockSize, st.Size()-from)))
	}
	if cap(b.buf) < size || cap(b.buf) > max(4*blockSize, size) {
		b.buf = make([]byte, size)
	}
	n, err := f.ReadAt(b.buf[:size], from)
	if n < want {
		b.at, b.buf = 0, b.buf[:0]
		return fmt.Errorf("read %s at %d: %w", f.Name(), offset, err)
	}
	b.at, b.buf = from, b.buf[:n]
	return nil
}

func (r *snapshotReader) row(seq uint32) (row, error) {
	b, err := r.rows.read(r.index, int64(seq)*rowSize, rowSize)
	if err != nil {
		return row{}, err
	}
	return parseRow(b), nil
}

// line returns a row's text, valid until the next call.
func (r *snapshotReader) line(w row) ([]byte, error) {
	return r.text.read(r.input, w.offset, int(w.length))
}

// head returns the beginning of a line that is too long to be read, enough to find its custom_id.
func (r *snapshotReader) head(w row) ([]byte, error) {
	return r.text.read(r.input, w.offset, int(min(w.length, batchfile.HeadLength)))
}
