package batchfile

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// ErrUTF16 is returned by Splitter.Next for text that is UTF-16 or UTF-32: nothing in it can be read as a line.
var ErrUTF16 = errors.New("the text is UTF-16, not UTF-8")

const (
	readBuffer = 256 << 10 // bytes; most lines lie within it and are never copied
	HeadLength = 4 << 10   // bytes kept of a line that is too long
)

// Line is one line that is not blank. Its slices are valid until the next call of Next.
type Line struct {
	Number  int64  // physical line number from 1
	Offset  int64  // of the text's first byte in the stream; a byte order mark counts
	Length  int64  // of the text in bytes, also when it is too long
	Text    []byte // without CR and LF; nil when TooLong
	TooLong bool
	Head    []byte // of a line that is too long: its first bytes, enough to find its custom_id
}

// Splitter reads a stream line by line. It accepts CRLF and a byte order mark, skips blank lines but counts them, and
// holds no more than a line's limit and one read buffer.
type Splitter struct {
	r       *bufio.Reader
	maxLine int
	long    []byte // a line that crosses the read buffer's end
	number  int64  // lines read so far
	offset  int64  // bytes read so far
	newline bool   // the last byte read was a newline
}

// NewSplitter returns a Splitter over r. A line whose text is longer than maxLine bytes is skipped and reported as too
// long.
func NewSplitter(r io.Reader, maxLine int) *Splitter {
	return &Splitter{r: bufio.NewReaderSize(r, readBuffer), maxLine: maxLine}
}

// Next returns the next line that is not blank, and io.EOF after the last one. A last line without newline is a line
// like any other. ErrUTF16 means that the stream is not UTF-8 at all; other errors are those of the reader.
func (s *Splitter) Next() (Line, error) {
	if s.offset == 0 {
		if err := s.start(); err != nil {
			return Line{}, err
		}
	}
	for {
		line, blank, err := s.read()
		if err != nil || !blank {
			return line, err
		}
	}
}

// EndsWithNewline reports, once Next has returned io.EOF, whether the stream's last byte was a newline. It is false for
// an empty stream.
func (s *Splitter) EndsWithNewline() bool { return s.newline }

// Offset is how many bytes of the stream have been read as lines.
func (s *Splitter) Offset() int64 { return s.offset }

// Lines is how many lines have been read, blank ones included.
func (s *Splitter) Lines() int64 { return s.number }

// start looks at the stream's first bytes: it skips a byte order mark and refuses UTF-16.
func (s *Splitter) start() error {
	head, err := s.r.Peek(4)
	if err != nil && err != io.EOF {
		return s.failed(err)
	}
	if isUTF16(head) {
		return ErrUTF16
	}
	if bytes.HasPrefix(head, []byte("\xEF\xBB\xBF")) {
		s.offset = 3
		_, err = s.r.Discard(3)
		return err
	}
	return nil
}

// isUTF16 recognizes a byte order mark, or the zero in every other byte that ASCII gets in UTF-16 and UTF-32.
func isUTF16(head []byte) bool {
	for _, mark := range [...]string{"\xFF\xFE", "\xFE\xFF", "\x00\x00\xFE\xFF"} {
		if bytes.HasPrefix(head, []byte(mark)) {
			return true
		}
	}
	if len(head) < 4 {
		return false
	}
	littleEndian := head[0] != 0 && head[1] == 0 && head[3] == 0
	bigEndian := head[0] == 0 && head[2] == 0 && head[3] != 0
	return littleEndian || bigEndian
}

// read reads one physical line. In the common case its text aliases the read buffer.
func (s *Splitter) read() (line Line, blank bool, err error) {
	raw, err := s.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		return s.readLong(raw)
	}
	if err := s.ended(err, len(raw)); err != nil {
		return Line{}, false, err
	}
	text := trimEnd(raw)
	return s.line(text, int64(len(raw)), len(raw)-len(text)), isBlank(text), nil
}

// readLong reads on after a line's first chunk, which filled the read buffer. It keeps no more than the limit, or a head.
func (s *Splitter) readLong(chunk []byte) (line Line, blank bool, err error) {
	s.long = s.long[:0]
	var (
		size int64  // of the line with its end
		tail []byte // its last two bytes, which tell its end
	)
	for blank, err = true, bufio.ErrBufferFull; ; chunk, err = s.r.ReadSlice('\n') {
		size += int64(len(chunk))
		blank = blank && isBlank(chunk)
		tail = lastTwo(append(tail, lastTwo(chunk)...))
		s.long = appendUpTo(s.long, chunk, max(s.maxLine, HeadLength)+len("\r\n"))
		if err != bufio.ErrBufferFull {
			break
		}
	}
	if err := s.ended(err, len(s.long)); err != nil {
		return Line{}, false, err
	}
	end := len(tail) - len(trimEnd(tail))
	text := s.long[:min(size-int64(end), int64(len(s.long)))]
	return s.line(text, size, end), blank, nil
}

// line counts a line of size bytes, of which end are its CR and LF, and describes it.
func (s *Splitter) line(text []byte, size int64, end int) Line {
	s.number++
	l := Line{Number: s.number, Offset: s.offset, Length: size - int64(end), Text: text}
	if l.Length > int64(s.maxLine) {
		l.TooLong, l.Text, l.Head = true, nil, text[:min(len(text), HeadLength)]
	}
	s.offset += size
	s.newline = end > 0
	return l
}

// ended tells the stream's end from an error, given how much was read before it.
func (s *Splitter) ended(err error, n int) error {
	switch {
	case err == nil, err == io.EOF && n > 0:
		return nil
	case err == io.EOF:
		return io.EOF
	}
	return s.failed(err)
}

func (s *Splitter) failed(err error) error {
	return fmt.Errorf("read line %d: %w", s.number+1, err)
}

// trimEnd cuts one LF or CRLF. A CR without LF after it is white space of the text.
func trimEnd(line []byte) []byte {
	line, ok := bytes.CutSuffix(line, []byte{'\n'})
	if ok {
		line = bytes.TrimSuffix(line, []byte{'\r'})
	}
	return line
}

// isBlank reports whether text holds only what JSON regards as white space.
func isBlank(text []byte) bool {
	for _, c := range text {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			return false
		}
	}
	return true
}

func lastTwo(b []byte) []byte { return b[max(0, len(b)-2):] }

// appendUpTo appends src as far as dst stays within limit bytes. It grows dst by doubling, but not past the limit.
func appendUpTo(dst, src []byte, limit int) []byte {
	src = src[:min(len(src), limit-len(dst))]
	if need := len(dst) + len(src); need > cap(dst) {
		grown := make([]byte, len(dst), min(limit, max(need, 2*cap(dst))))
		copy(grown, dst)
		dst = grown
	}
	return append(dst, src...)
}
