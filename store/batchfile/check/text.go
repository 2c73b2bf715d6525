package check

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"stoker/store/batchfile"
)

// Text is a Printer for people and for editors: FILE:LINE:COL: code: message, then counts.
type Text struct {
	w     *bufio.Writer
	limit int
	path  string
	seen  int
}

// NewText returns a Text printer that shows the first limit bad lines of each file; 0: all.
func NewText(w io.Writer, limit int) *Text { return &Text{w: bufio.NewWriter(w), limit: limit} }

func (t *Text) Begin(path string) error {
	t.path, t.seen = Printable(path), 0
	return nil
}

func (t *Text) Problem(e *batchfile.LineError) error {
	t.seen++
	if t.limit > 0 && t.seen > t.limit {
		return nil
	}
	_, err := fmt.Fprintf(t.w, "%s:%d:%d: %s: %s\n", t.path, e.Line, max(1, e.Column), e.Code, e.Message)
	return err
}

func (t *Text) End(r *Report, failed error) error {
	if t.limit > 0 && t.seen > t.limit {
		t.printf("%d of %d bad lines shown: --all shows all", t.limit, t.seen)
	}
	if failed != nil {
		if r.Lines > 0 {
			t.printf("only %d lines could be read", r.Lines)
		}
		return t.w.Flush()
	}
	t.printf("%d requests, %d valid, %d bad", r.Requests, r.Requests-r.Invalid(), r.Invalid())
	t.counts("form", names(r.ByForm))
	t.counts("url", r.ByURL)
	t.counts("bad", r.ByCode)
	if r.MissingNewline {
		t.printf("note: no newline after the last line: the inbox waits inbox.tail_grace for more before it takes the file")
	}
	if r.Refused != "" {
		t.printf("refused: %s", r.Refused)
	}
	return t.w.Flush()
}

// Close does nothing: each file's part has been flushed.
func (t *Text) Close() error { return nil }

// printf writes one line about the file as a whole. Flush tells if that failed.
func (t *Text) printf(format string, args ...any) {
	fmt.Fprintf(t.w, "%s: %s\n", t.path, fmt.Sprintf(format, args...))
}

func (t *Text) counts(what string, counts map[string]int64) {
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		if n := counts[name]; n > 0 {
			t.printf("%s %s: %d", what, name, n)
		}
	}
}

func names(forms map[batchfile.Form]int64) map[string]int64 {
	byName := make(map[string]int64, len(forms))
	for form, n := range forms {
		byName[form.String()] = n
	}
	return byName
}

// Printable returns a name so that it stays on its line and does nothing to the terminal: quoted where it must be.
func Printable[S ~string](name S) string {
	if strings.ContainsFunc(string(name), func(r rune) bool { return !strconv.IsPrint(r) || r == utf8.RuneError }) {
		return strconv.Quote(string(name))
	}
	return string(name)
}
