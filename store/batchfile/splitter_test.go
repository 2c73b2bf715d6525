package batchfile

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// split reads all lines; their slices are copied.
func split(t testing.TB, r io.Reader, maxLine int) ([]Line, *Splitter, error) {
	t.Helper()
	s := NewSplitter(r, maxLine)
	var lines []Line
	for {
		line, err := s.Next()
		if err != nil {
			return lines, s, err
		}
		line.Text, line.Head = bytes.Clone(line.Text), bytes.Clone(line.Head)
		lines = append(lines, line)
	}
}

func TestSplitter(t *testing.T) {
	long := strings.Repeat("x", 3*readBuffer+17)
	tests := []struct {
		name    string
		in      string
		maxLine int
		want    []Line
		newline bool
	}{
		{"nothing", "", 10, nil, false},
		{"one line", "a\n", 10, []Line{{Number: 1, Length: 1, Text: []byte("a")}}, true},
		{"no newline at the end", "a\nbc", 10, []Line{
			{Number: 1, Length: 1, Text: []byte("a")},
			{Number: 2, Offset: 2, Length: 2, Text: []byte("bc")},
		}, false},
		{"blank lines count, but are skipped", "\n \t\r\n\na\n\n", 10, []Line{{Number: 4, Offset: 6, Length: 1, Text: []byte("a")}}, true},
		{"only blank lines", "\n\n  ", 10, nil, false},
		{"CRLF", "a\r\nb\r\n", 10, []Line{
			{Number: 1, Length: 1, Text: []byte("a")},
			{Number: 2, Offset: 3, Length: 1, Text: []byte("b")},
		}, true},
		{"a CR of its own is text", "a\rb\r", 10, []Line{{Number: 1, Length: 4, Text: []byte("a\rb\r")}}, false},
		{"byte order mark", "\xEF\xBB\xBFa\n", 10, []Line{{Number: 1, Offset: 3, Length: 1, Text: []byte("a")}}, true},
		{"byte order mark alone", "\xEF\xBB\xBF", 10, nil, false},
		{"line of the limit's length", "abc\r\nd\n", 3, []Line{
			{Number: 1, Length: 3, Text: []byte("abc")},
			{Number: 2, Offset: 5, Length: 1, Text: []byte("d")},
		}, true},
		{"line over the limit", "abcd\nd\n", 3, []Line{
			{Number: 1, Length: 4, TooLong: true, Head: []byte("abcd")},
			{Number: 2, Offset: 5, Length: 1, Text: []byte("d")},
		}, true},
		{"longer than the buffer", long + "\na\n", len(long), []Line{
			{Number: 1, Length: int64(len(long)), Text: []byte(long)},
			{Number: 2, Offset: int64(len(long)) + 1, Length: 1, Text: []byte("a")},
		}, true},
		{"too long for the buffer and the limit", long + "\r\na", len(long) - 1, []Line{
			{Number: 1, Length: int64(len(long)), TooLong: true, Head: []byte(long[:HeadLength])},
			{Number: 2, Offset: int64(len(long)) + 2, Length: 1, Text: []byte("a")},
		}, false},
		{"too long and without end", long, 5, []Line{{Number: 1, Length: int64(len(long)), TooLong: true, Head: []byte(long[:HeadLength])}}, false},
		{"blank and too long", strings.Repeat(" ", 2*readBuffer) + "\na\n", 5, []Line{
			{Number: 2, Offset: 2*readBuffer + 1, Length: 1, Text: []byte("a")},
		}, true},
		{"CR and LF in different buffers", strings.Repeat("x", readBuffer-1) + "\r\na\n", readBuffer, []Line{
			{Number: 1, Length: readBuffer - 1, Text: bytes.Repeat([]byte("x"), readBuffer-1)},
			{Number: 2, Offset: readBuffer + 1, Length: 1, Text: []byte("a")},
		}, true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, s, err := split(t, strings.NewReader(test.in), test.maxLine)
			if err != io.EOF {
				t.Fatalf("Next: %v, want io.EOF", err)
			}
			if diff := cmp.Diff(test.want, got, cmp.Comparer(bytes.Equal)); diff != "" {
				t.Errorf("lines (-want +got):\n%s", diff)
			}
			if s.EndsWithNewline() != test.newline {
				t.Errorf("EndsWithNewline = %v, want %v", s.EndsWithNewline(), test.newline)
			}
			if s.Offset() != int64(len(test.in)) {
				t.Errorf("Offset = %d, want %d", s.Offset(), len(test.in))
			}
		})
	}
}

func TestSplitterUTF16(t *testing.T) {
	for name, in := range map[string]string{
		"little endian with mark":   "\xFF\xFE{\x00}\x00",
		"big endian with mark":      "\xFE\xFF\x00{\x00}",
		"little endian":             "{\x00\"\x00",
		"big endian":                "\x00{\x00\"",
		"UTF-32 little endian":      "{\x00\x00\x00",
		"UTF-32 big endian, marked": "\x00\x00\xFE\xFF",
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := split(t, strings.NewReader(in), 10)
			if !errors.Is(err, ErrUTF16) {
				t.Errorf("Next: %v, want ErrUTF16", err)
			}
		})
	}
}

func TestSplitterReadError(t *testing.T) {
	broken := errors.New("share is gone")
	in := io.MultiReader(strings.NewReader("abc\nd"), iotest.ErrReader(broken))
	lines, _, err := split(t, in, 10)
	if !errors.Is(err, broken) || len(lines) != 1 {
		t.Errorf("got %d lines and %v, want the whole line and the reader's error", len(lines), err)
	}
}

// FuzzSplitter checks that offsets and texts put together give the stream again, however it arrives.
func FuzzSplitter(f *testing.F) {
	f.Add([]byte("a\r\n\n  \nb"), 3)
	f.Add([]byte("\xEF\xBB\xBF{}\n{}"), 100)
	f.Add([]byte("abcdefgh\nx\n"), 2)
	f.Fuzz(func(t *testing.T, in []byte, maxLine int) { checkSplit(t, in, 1+(maxLine&0xFFFF)%1000) })
}

// FuzzSplitterAtBufferEnd lets the read buffer end anywhere in the fuzzed text.
func FuzzSplitterAtBufferEnd(f *testing.F) {
	f.Add([]byte("a\r\nb\n"), byte('x'), uint8(2), true)
	f.Add([]byte("a\r\nb\n"), byte(' '), uint8(1), false)
	f.Add([]byte("\r\n\n"), byte('\n'), uint8(1), false)
	f.Add([]byte("\xEF\xBB\xBF\n"), byte('\r'), uint8(4), true)
	f.Fuzz(func(t *testing.T, in []byte, before byte, at uint8, long bool) {
		pad := bytes.Repeat([]byte{before}, max(0, readBuffer-int(at)))
		maxLine := 10
		if long {
			maxLine = 2 * readBuffer
		}
		checkSplit(t, append(pad, in...), maxLine)
	})
}

// checkSplit splits a text, and puts it together again.
func checkSplit(t *testing.T, in []byte, maxLine int) {
	lines, s, err := split(t, iotest.HalfReader(bytes.NewReader(in)), maxLine)
	if errors.Is(err, ErrUTF16) {
		return
	}
	if err != io.EOF {
		t.Fatal(err)
	}
	end, number := int64(0), int64(0)
	for _, l := range lines {
		gap := in[end:l.Offset]
		if !isBlank(bytes.TrimPrefix(gap, []byte("\xEF\xBB\xBF"))) {
			t.Fatalf("skipped %.99q", gap)
		}
		if number += int64(bytes.Count(gap, []byte("\n"))); l.Number != number+1 {
			t.Fatalf("line %d, want %d", l.Number, number+1)
		}
		text := in[l.Offset : l.Offset+l.Length]
		if l.TooLong != (len(text) > maxLine) || !l.TooLong && !bytes.Equal(l.Text, text) || !bytes.HasPrefix(text, l.Head) {
			t.Fatalf("line %d of %d bytes does not match %.99q", l.Number, l.Length, text)
		}
		end = l.Offset + l.Length
	}
	if !isBlank(bytes.TrimPrefix(in[end:], []byte("\xEF\xBB\xBF"))) {
		t.Fatalf("left %.99q", in[end:])
	}
	if s.Offset() != int64(len(in)) || s.EndsWithNewline() != bytes.HasSuffix(in, []byte("\n")) {
		t.Fatalf("Offset %d, EndsWithNewline %v", s.Offset(), s.EndsWithNewline())
	}
}
