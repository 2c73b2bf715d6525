package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"

	"stoker/store/batchfile"
	"stoker/store/durable"
)

// A line index has one row for each request of a batch's snapshot:
//
//	0  offset of the line's first byte     8  length in bytes, without its end     12 line number from 1
//	16 flags                               20 of a duplicate: number of the first line with its custom_id
//	24 CRC-32C of the line, or of the head of one that is too long
//	28 CRC-32C of the request's number and of the row before this field
//
// All integers are little-endian. So a row that is damaged, or another request's, is known by itself, and so is a line that
// is not what was accepted.
const rowSize = 32

type rowFlags uint32

const (
	rowInvalid   rowFlags = 1 << iota // the line cannot run; parsing it again says why
	rowDuplicate                      // its custom_id stands on an earlier line
	rowTooLong                        // longer than max_line: not read again
)

var crcTable = crc32.MakeTable(crc32.Castagnoli)

type row struct {
	offset int64
	length uint32
	line   uint32
	flags  rowFlags
	first  uint32
	text   uint32 // CRC-32C
}

func (r row) append(dst []byte, seq uint32) []byte {
	start := len(dst)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.offset))
	dst = binary.LittleEndian.AppendUint32(dst, r.length)
	dst = binary.LittleEndian.AppendUint32(dst, r.line)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(r.flags))
	dst = binary.LittleEndian.AppendUint32(dst, r.first)
	dst = binary.LittleEndian.AppendUint32(dst, r.text)
	return binary.LittleEndian.AppendUint32(dst, rowCRC(dst[start:], seq))
}

func rowCRC(b []byte, seq uint32) uint32 {
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], seq)
	return crc32.Update(crc32.Checksum(n[:], crcTable), crcTable, b)
}

// parseRow reads a request's row. The error is errDamagedRow if it is not what was written for this request.
func parseRow(b []byte, seq uint32) (row, error) {
	const end = rowSize - 4
	if binary.LittleEndian.Uint32(b[end:]) != rowCRC(b[:end], seq) {
		return row{}, errDamagedRow
	}
	return row{
		offset: int64(binary.LittleEndian.Uint64(b)), length: binary.LittleEndian.Uint32(b[8:]),
		line: binary.LittleEndian.Uint32(b[12:]), flags: rowFlags(binary.LittleEndian.Uint32(b[16:])),
		first: binary.LittleEndian.Uint32(b[20:]), text: binary.LittleEndian.Uint32(b[24:]),
	}, nil
}

var (
	errDamagedRow  = errors.New("the row is damaged")
	errDamagedLine = errors.New("the line is damaged")
)

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
	w.buf = r.append(w.buf[:0], w.n)
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
	_, err = w.f.WriteAt(r.append(nil, seq), int64(seq)*rowSize)
	return err
}

func readRow(f durable.Source, seq uint32) (row, error) {
	var b [rowSize]byte
	if _, err := f.ReadAt(b[:], int64(seq)*rowSize); err != nil {
		return row{}, indexError(f, seq, err)
	}
	r, err := parseRow(b[:], seq)
	return r, indexError(f, seq, err)
}

func indexError(f durable.Source, seq uint32, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: fmt.Sprintf("read line index, request %d", seq), Path: f.Name(), Err: err}
}

// snapshotReader reads requests of a snapshot, fast in nearly the order of the lines.
type snapshotReader struct {
	input, index durable.File
	rows         durable.Block
	text         durable.Block
}

func (r *snapshotReader) row(seq uint32) (row, error) {
	b, err := r.rows.Read(r.index, int64(seq)*rowSize, rowSize)
	if err != nil {
		return row{}, err
	}
	w, err := parseRow(b, seq)
	return w, indexError(r.index, seq, err)
}

// line returns a row's text, valid until the next call; of a line that is too long its beginning, enough to find its
// custom_id.
func (r *snapshotReader) line(w row) ([]byte, error) {
	length := w.length
	if w.flags&rowTooLong != 0 {
		length = min(length, batchfile.HeadLength)
	}
	text, err := r.text.Read(r.input, w.offset, int(length))
	if err == nil && crc32.Checksum(text, crcTable) != w.text {
		err = &fs.PathError{Op: fmt.Sprintf("read line %d", w.line), Path: r.input.Name(), Err: errDamagedLine}
	}
	return text, err
}
