package protocol

import (
	"bytes"
	"errors"
	"io"
)

// Reader reads messages, which are lines of any length.
type Reader struct {
	r    io.Reader
	buf  []byte
	held int // bytes at the start of buf: a line that has not ended
}

// NewReader returns one of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// maxMessage bounds what a broken worker can make the daemon hold, in bytes.
const maxMessage = 1 << 30

// Lines returns all complete lines that one read brought, without their ends. They are the caller's. What follows the
// last line's end is lost at the end of r.
func (l *Reader) Lines() ([][]byte, error) {
	for {
		if l.held == len(l.buf) {
			l.buf = append(l.buf, make([]byte, max(1<<18, len(l.buf)))...)
		}
		n, err := l.r.Read(l.buf[l.held:])
		if n == 0 && err != nil {
			return nil, err
		}
		text := l.buf[:l.held+n]
		last := bytes.LastIndexByte(text[l.held:], '\n') // what was held has none
		l.held += n
		if last >= 0 {
			end := len(text) - n + last
			lines := bytes.Split(bytes.Clone(text[:end]), []byte{'\n'})
			l.held = copy(l.buf, text[end+1:])
			return lines, nil
		}
		if l.held > maxMessage {
			return nil, errors.New("worker sent a line that does not end")
		}
	}
}
