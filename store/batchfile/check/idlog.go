package check

import (
	"encoding/binary"
	"fmt"
	"slices"

	"stoker/store/batchfile"
	"stoker/store/dedupe"
)

// entry is what is remembered of a valid request until all ids are known.
type entry struct {
	line int64
	form batchfile.Form
	url  string
	id   string
}

// idLog keeps entries on disk, so that repeated ids can be confirmed in text that cannot be read twice: compressed
// files, and pipes.
type idLog struct {
	urls    []string // a request's URL is kept as its place here
	entries *spool
	ends    *spool // where each entry ends: 8 bytes each
	buf     []byte
}

func newIDLog(open func() (dedupe.File, error)) *idLog {
	return &idLog{entries: &spool{open: open}, ends: &spool{open: open}}
}

const endSize = 8 // bytes of one number in ends

func (l *idLog) len() int64 { return l.ends.size() / endSize }

func (l *idLog) append(e entry) error {
	url := slices.Index(l.urls, e.url)
	if url < 0 {
		url = len(l.urls)
		l.urls = append(l.urls, e.url)
	}
	b := binary.AppendUvarint(l.buf[:0], uint64(e.line))
	b = append(b, byte(e.form), byte(url))
	l.buf = append(b, e.id...)
	if err := l.entries.write(l.buf); err != nil {
		return err
	}
	return l.ends.write(binary.LittleEndian.AppendUint64(nil, uint64(l.entries.size())))
}

func (l *idLog) at(seq uint32) (entry, error) {
	start, end, err := l.bounds(int64(seq))
	if err != nil {
		return entry{}, err
	}
	b := make([]byte, end-start)
	if err := l.entries.readAt(b, start); err != nil {
		return entry{}, err
	}
	line, n := binary.Uvarint(b)
	return entry{line: int64(line), form: batchfile.Form(b[n]), url: l.urls[b[n+1]], id: string(b[n+2:])}, nil
}

func (l *idLog) bounds(seq int64) (start, end int64, err error) {
	var b [2 * endSize]byte
	if seq == 0 {
		err = l.ends.readAt(b[endSize:], 0)
	} else {
		err = l.ends.readAt(b[:], (seq-1)*endSize)
	}
	return int64(binary.LittleEndian.Uint64(b[:])), int64(binary.LittleEndian.Uint64(b[endSize:])), err
}

func (l *idLog) same(a, b uint32) (bool, error) {
	x, err := l.at(a)
	if err != nil {
		return false, err
	}
	y, err := l.at(b)
	return x.id == y.id, err
}

func (l *idLog) close() {
	l.entries.close()
	l.ends.close()
}

// spoolMemory is how many bytes a spool holds before it writes: small files never touch the disk.
const spoolMemory = 1 << 20

// spool is an append-only sequence of bytes in a temporary file, the last of them in memory.
type spool struct {
	open    func() (dedupe.File, error)
	file    dedupe.File // nil until memory is full
	written int64       // bytes in the file
	mem     []byte
}

func (s *spool) size() int64 { return s.written + int64(len(s.mem)) }

func (s *spool) write(b []byte) error {
	s.mem = append(s.mem, b...)
	if len(s.mem) < spoolMemory {
		return nil
	}
	if s.file == nil {
		f, err := s.open()
		if err != nil {
			return fmt.Errorf("keep ids: %w", err)
		}
		s.file = f
	}
	if _, err := s.file.Write(s.mem); err != nil {
		return fmt.Errorf("keep ids: %w", err)
	}
	s.written += int64(len(s.mem))
	s.mem = s.mem[:0]
	return nil
}

// readAt fills b from offset on; a range may lie across the end of the file.
func (s *spool) readAt(b []byte, offset int64) error {
	if offset < s.written {
		n := min(int64(len(b)), s.written-offset)
		if _, err := s.file.ReadAt(b[:n], offset); err != nil {
			return fmt.Errorf("read ids: %w", err)
		}
		b, offset = b[n:], s.written
	}
	copy(b, s.mem[offset-s.written:])
	return nil
}

func (s *spool) close() {
	if s.file != nil {
		s.file.Close() // nothing in it outlives the check
	}
}
