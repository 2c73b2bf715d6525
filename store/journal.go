package store

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"

	"stoker/store/durable"
	"stoker/store/faults"
)

// A journal is a batch's append-only file of frames: an 8-byte head, then frames of a 32-byte header and a payload.
//
//	0  magic 'S' 'J'     2  kind, 3 finish     4  seq       8  status, 10 zero    12 payload length
//	16 prompt tokens     20 completion tokens  24 zero      28 CRC-32C of header (before this field) and payload
//
// All integers are little-endian. A frame is valid whole or not at all: the CRC covers both parts, so that a torn tail
// is recognised wherever it was torn.
const (
	journalHead  = "STOKERJ1"
	journalStart = int64(len(journalHead)) // offset of the first frame
	headerSize   = 32
	magic0       = 'S'
	magic1       = 'J'
	// MaxPayload is how many bytes a frame holds. It bounds what a damaged length field can make a reader allocate.
	MaxPayload = 1 << 30
)

// Kind says what a frame records.
type Kind uint8

const (
	KindOutput  Kind = 1 // Payload is the request's line of NAME.output.jsonl
	KindError   Kind = 2 // Payload is the request's line of NAME.errors.jsonl
	KindSuspect Kind = 3 // the engine died while it held this request; Status counts how often
	KindPublish Kind = 4 // Payload is a Publication
	KindDone    Kind = 5 // the publication is complete and durable
	KindHanded  Kind = 6 // requests below Seq were given to the engine, and those in Payload, if any
	KindEngine  Kind = 7 // Payload is an answering: which engine answers from here on
)

// IsResult reports whether a frame of this kind is a request's one record.
func (k Kind) IsResult() bool { return k == KindOutput || k == KindError }

// Frame is one record of a journal.
type Frame struct {
	Kind             Kind
	Finish           Finish // of a result: why generation ended
	Seq              uint32 // the request's index in the batch, from 0
	Status           uint16 // HTTP-like status of a result; deaths of a suspect
	PromptTokens     uint32
	CompletionTokens uint32
	Payload          []byte
}

var (
	crcTable = crc32.MakeTable(crc32.Castagnoli)

	// errTorn means that no whole, valid frame begins at an offset.
	errTorn = errors.New("no valid frame")
)

func appendFrame(dst []byte, f Frame) []byte {
	start := len(dst)
	dst = append(dst, magic0, magic1, byte(f.Kind), byte(f.Finish))
	dst = binary.LittleEndian.AppendUint32(dst, f.Seq)
	dst = binary.LittleEndian.AppendUint16(dst, f.Status)
	dst = append(dst, 0, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(f.Payload)))
	dst = binary.LittleEndian.AppendUint32(dst, f.PromptTokens)
	dst = binary.LittleEndian.AppendUint32(dst, f.CompletionTokens)
	dst = append(dst, 0, 0, 0, 0)
	crc := crc32.Update(crc32.Checksum(dst[start:], crcTable), crcTable, f.Payload)
	dst = binary.LittleEndian.AppendUint32(dst, crc)
	return append(dst, f.Payload...)
}

// parseHeader returns the frame without its payload, the payload's length and the CRC.
func parseHeader(h []byte) (f Frame, length, crc uint32, ok bool) {
	f = Frame{
		Kind: Kind(h[2]), Finish: Finish(h[3]), Seq: binary.LittleEndian.Uint32(h[4:]),
		Status:           binary.LittleEndian.Uint16(h[8:]),
		PromptTokens:     binary.LittleEndian.Uint32(h[16:]),
		CompletionTokens: binary.LittleEndian.Uint32(h[20:]),
	}
	length, crc = binary.LittleEndian.Uint32(h[12:]), binary.LittleEndian.Uint32(h[28:])
	ok = h[0] == magic0 && h[1] == magic1 && f.Kind >= KindOutput && f.Kind <= KindEngine && length <= MaxPayload
	return f, length, crc, ok
}

func frameCRC(header, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(header[:headerSize-4], crcTable), crcTable, payload)
}

// size is how many bytes the frame takes up in a journal.
func (f *Frame) size() int64 { return headerSize + int64(len(f.Payload)) }

// source is a file to read anywhere in.
type source interface {
	io.ReaderAt
	Name() string
	Stat() (fs.FileInfo, error)
}

// interruptible is a source that cannot be read any more once the context has ended.
type interruptible struct {
	ctx context.Context
	source
}

func (f interruptible) ReadAt(b []byte, at int64) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.source.ReadAt(b, at)
}

// frameReader reads frames one after another. Its frames' payloads are valid until the next call.
type frameReader struct {
	f      source
	r      *bufio.Reader
	offset int64 // of the next frame
	end    int64 // bytes of the file that may be read
	header [headerSize]byte
	buf    []byte
}

func newFrameReader(f source, from, end int64) *frameReader {
	r := &frameReader{f: f, r: bufio.NewReaderSize(nil, int(min(1<<20, max(4096, end-from)))), end: max(from, end)}
	r.seek(from)
	return r
}

// seek makes the frame at an offset, which lies before the end, the next one.
func (r *frameReader) seek(offset int64) {
	r.r.Reset(io.NewSectionReader(r.f, offset, r.end-offset))
	r.offset = offset
}

// next returns the frame at the reader's offset, io.EOF at the end, or errTorn where no valid frame begins.
func (r *frameReader) next() (Frame, error) {
	if r.offset == r.end {
		return Frame{}, io.EOF
	}
	header := r.header[:]
	if _, err := io.ReadFull(r.r, header); err != nil {
		return Frame{}, tornOr(err)
	}
	f, length, crc, ok := parseHeader(header)
	if !ok || r.offset+headerSize+int64(length) > r.end {
		return Frame{}, errTorn
	}
	if cap(r.buf) < int(length) {
		r.buf = make([]byte, length)
	}
	f.Payload = r.buf[:length]
	if _, err := io.ReadFull(r.r, f.Payload); err != nil {
		return Frame{}, tornOr(err)
	}
	if frameCRC(header, f.Payload) != crc {
		return Frame{}, errTorn
	}
	r.offset += f.size()
	return f, nil
}

func tornOr(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errTorn
	}
	return err
}

// scanJournal calls visit for every valid frame between from and end, with the frame's offset, and returns where the
// last one ends. At bytes that are no frame it stops, or, with resync, looks for the next valid frame behind them. A
// frame's payload is valid only during the call.
func scanJournal(f source, from, end int64, resync bool, visit func(offset int64, f Frame) error) (valid int64, err error) {
	r := newFrameReader(f, from, end)
	valid = from
	for {
		at := r.offset
		frame, err := r.next()
		switch {
		case err == nil:
			if err := visit(at, frame); err != nil {
				return valid, err
			}
			valid = r.offset
		case errors.Is(err, io.EOF):
			return valid, nil
		case errors.Is(err, errTorn) && resync:
			next, err := findFrame(f, at+1, end)
			if err != nil {
				return valid, fmt.Errorf("read journal %s behind %d: %w", f.Name(), at, err)
			}
			r.seek(next)
		case errors.Is(err, errTorn):
			return valid, nil
		default:
			return valid, fmt.Errorf("read journal %s at %d: %w", f.Name(), at, err)
		}
	}
}

// findFrame returns the offset of the first valid frame at or after from, or end.
func findFrame(f source, from, end int64) (int64, error) {
	r := bufio.NewReaderSize(io.NewSectionReader(f, from, end-from), 1<<16)
	for at := from; ; at++ {
		two, err := r.Peek(2)
		if err != nil {
			return end, tornOrNil(err)
		}
		if two[0] == magic0 && two[1] == magic1 {
			if _, err := readFrameAt(f, at, end); err == nil {
				return at, nil
			} else if !errors.Is(err, errTorn) {
				return end, err
			}
		}
		r.Discard(1)
	}
}

func tornOrNil(err error) error {
	if errors.Is(tornOr(err), errTorn) {
		return nil
	}
	return err
}

// readFrameAt returns the frame at an offset, with a payload of its own, or errTorn.
func readFrameAt(f source, at, end int64) (Frame, error) {
	return readFrame(func(offset int64, length int) ([]byte, error) {
		b := make([]byte, length)
		_, err := f.ReadAt(b, offset)
		return b, tornOr(err)
	}, at, end)
}

// readFrame returns the frame at an offset, or errTorn. Its payload is what read returned.
func readFrame(read func(offset int64, length int) ([]byte, error), at, end int64) (Frame, error) {
	header, err := read(at, headerSize)
	if err != nil {
		return Frame{}, err
	}
	f, length, crc, ok := parseHeader(header)
	if !ok || at+headerSize+int64(length) > end {
		return Frame{}, errTorn
	}
	whole, err := read(at, headerSize+int(length))
	if err != nil {
		return Frame{}, err
	}
	f.Payload = whole[headerSize:]
	if frameCRC(whole, f.Payload) != crc {
		return Frame{}, errTorn
	}
	return f, nil
}

// journal appends frames to a batch's journal file. Frames are buffered: they reach the file with flush and are durable
// only after a sync.
type journal struct {
	f       durable.File
	buf     []byte
	offset  int64 // end of the file, buffered frames not counted
	badHead bool  // cut off, or damaged
}

// flushAt is how many buffered bytes are written without waiting for flush.
const flushAt = 256 << 10

func createJournal(fsys durable.FS, path string) (*journal, error) {
	f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.WriteString(journalHead); err != nil {
		f.Close()
		return nil, err
	}
	return &journal{f: f, offset: journalStart}, nil
}

// openJournal opens a journal for appending at its end. Recovery mends a head and a tail that are cut off before.
func openJournal(fsys durable.FS, path string, mode int) (*journal, error) {
	f, err := fsys.OpenFile(path, mode, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	j := &journal{f: f, offset: st.Size()}
	if err := j.checkHead(); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

// checkHead refuses a file that is no journal. One that ends within the head holds nothing, but may be one, and one whose
// frames are a journal's has a damaged head.
func (j *journal) checkHead() error {
	head := make([]byte, len(journalHead))
	n, err := j.f.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read journal %s: %w", j.f.Name(), err)
	}
	if string(head) == journalHead {
		return nil
	}
	j.badHead = true
	if string(head[:n]) == journalHead[:n] {
		return nil
	}
	if _, err := readFrameAt(j.f, int64(n), j.offset); errors.Is(err, errTorn) {
		return &fs.PathError{Op: "read journal", Path: j.f.Name(), Err: errors.New("not a journal of this version")}
	} else if err != nil {
		return fmt.Errorf("read journal %s: %w", j.f.Name(), err)
	}
	return nil
}

// mendHead writes a head that is cut off or damaged.
func (j *journal) mendHead() error {
	if !j.badHead {
		return nil
	}
	if _, err := j.f.WriteAt([]byte(journalHead), 0); err != nil {
		return fmt.Errorf("mend journal: %w", err)
	}
	j.offset, j.badHead = max(j.offset, journalStart), false
	return nil
}

func (j *journal) append(f Frame) error {
	if len(f.Payload) > MaxPayload {
		return fmt.Errorf("append frame of request %d: %d bytes are more than a frame holds (%d)", f.Seq, len(f.Payload), MaxPayload)
	}
	j.buf = appendFrame(j.buf, f)
	if len(j.buf) >= flushAt {
		return j.flush()
	}
	return nil
}

// appendNow writes a frame out, behind those that are buffered. Unlike them it is forgotten if that fails.
func (j *journal) appendNow(f Frame) error {
	if err := j.flush(); err != nil {
		return err
	}
	if err := j.append(f); err != nil { // which may write it at once
		j.buf = j.buf[:0]
		return err
	}
	err := j.flush()
	if err != nil {
		j.buf = j.buf[:0]
	}
	return err
}

// flush hands buffered frames to the operating system: from here on they survive the death of the process.
func (j *journal) flush() error {
	if len(j.buf) == 0 {
		return nil
	}
	if faults.Armed("journal.torn") {
		j.f.WriteAt(j.buf[:len(j.buf)-1], j.offset) // as a kill in the middle of a write leaves it
	}
	faults.Crash("journal.torn")
	n, err := j.f.WriteAt(j.buf, j.offset)
	if err != nil {
		// Nothing was promised for these frames; cut off what was written of them, so that a retry begins cleanly.
		if terr := j.f.Truncate(j.offset); terr != nil {
			return fmt.Errorf("write journal: %w", errors.Join(err, terr))
		}
		return fmt.Errorf("write journal (%d of %d bytes): %w", n, len(j.buf), err)
	}
	j.offset += int64(n)
	j.buf = j.buf[:0]
	return nil
}

// rewrite writes what stands behind an offset once more. A process before may have ended because a sync failed: then the
// kernel shows bytes that it will never write, and a sync that succeeds says nothing of them.
func (j *journal) rewrite(from int64) error {
	buf := make([]byte, min(1<<20, max(0, j.offset-from)))
	for from < j.offset {
		n, err := j.f.ReadAt(buf[:min(int64(len(buf)), j.offset-from)], from)
		if err == nil {
			_, err = j.f.WriteAt(buf[:n], from)
		}
		if err != nil {
			return fmt.Errorf("write journal again at %d: %w", from, err)
		}
		from += int64(n)
	}
	return nil
}

// truncate cuts the file behind end.
func (j *journal) truncate(end int64) error {
	if j.offset == end {
		return nil
	}
	if err := j.f.Truncate(end); err != nil {
		return fmt.Errorf("cut torn tail: %w", err)
	}
	j.offset = end
	return nil
}

func (j *journal) close() error { return j.f.Close() }

// datasync makes a journal's frames durable.
func datasync(f durable.File) error {
	if faults.Planted("journal-not-synced") {
		return nil
	}
	return f.Datasync()
}
