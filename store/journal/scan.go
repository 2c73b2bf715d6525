package journal

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"stoker/store/durable"
)

// interruptible is a file that cannot be read any more once the context has ended.
type interruptible struct {
	ctx context.Context
	durable.Source
}

func (f interruptible) ReadAt(b []byte, at int64) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	return f.Source.ReadAt(b, at)
}

// frameReader reads frames one after another. Its frames' payloads are valid until the next call.
type frameReader struct {
	f      durable.Source
	r      *bufio.Reader
	offset int64 // of the next frame
	end    int64 // bytes of the file that may be read
	header [headerSize]byte
	buf    []byte
}

func newFrameReader(f durable.Source, from, end int64) *frameReader {
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
	r.offset += f.Size()
	return f, nil
}

func tornOr(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return errTorn
	}
	return err
}

// Scan calls visit for every valid frame between from and end, with the frame's offset, until the context ends, and returns
// where the last one ends. At bytes that are no frame it stops, or, with resync, looks for the next valid frame behind them. A
// frame's payload is valid only during the call.
func (j *Journal) Scan(ctx context.Context, from, end int64, resync bool, visit func(offset int64, f Frame) error) (valid int64, err error) {
	file := interruptible{ctx, j.f}
	r := newFrameReader(file, from, end)
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
			next, err := findFrame(file, at+1, end)
			if err != nil {
				return valid, fmt.Errorf("read journal %s behind %d: %w", file.Name(), at, err)
			}
			r.seek(next)
		case errors.Is(err, errTorn):
			return valid, nil
		default:
			return valid, fmt.Errorf("read journal %s at %d: %w", file.Name(), at, err)
		}
	}
}

// findFrame returns the offset of the first valid frame at or after from, or end.
func findFrame(f durable.Source, from, end int64) (int64, error) {
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
