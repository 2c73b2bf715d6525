package protocol

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// chunks reads a text in pieces of given sizes, the last of them again and again.
type chunks struct {
	text  []byte
	sizes []int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.text) == 0 {
		return 0, io.EOF
	}
	n := len(c.text)
	if len(c.sizes) > 0 {
		n, c.sizes = c.sizes[0], c.sizes[1:]
	}
	n = copy(p[:min(n, len(p))], c.text)
	c.text = c.text[n:]
	return n, nil
}

func readLines(t interface{ Fatal(...any) }, r io.Reader) []string {
	var all []string
	in := NewReader(r)
	for {
		lines, err := in.Lines()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			all = append(all, string(line))
		}
	}
}

func linesOf(text string) []string {
	lines := strings.Split(text, "\n")
	if lines = lines[:len(lines)-1]; len(lines) == 0 {
		return nil
	}
	return lines
}

// However the bytes arrive, the lines are the same.
func TestReaderChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`([ab]{0,9}\n?){0,40}`).Draw(t, "text")
		sizes := rapid.SliceOf(rapid.IntRange(0, 12)).Draw(t, "sizes")
		if diff := cmp.Diff(linesOf(text), readLines(t, &chunks{[]byte(text), sizes})); diff != "" {
			t.Fatalf("lines (-want +got):\n%s", diff)
		}
	})
}

func FuzzReader(f *testing.F) {
	f.Add("one\ntwo\n\nthree", []byte{1, 2, 0, 3})
	f.Add("\n\n", []byte{})
	f.Fuzz(func(t *testing.T, text string, sizes []byte) {
		c := &chunks{text: []byte(text)}
		for _, n := range sizes {
			c.sizes = append(c.sizes, int(n))
		}
		if diff := cmp.Diff(linesOf(text), readLines(t, c)); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
	})
}

func TestReaderLongLines(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	if got := readLines(t, strings.NewReader("a\n"+long+"\nb\n")); len(got) != 3 || got[1] != long || got[2] != "b" {
		t.Errorf("got %d lines", len(got))
	}
}
