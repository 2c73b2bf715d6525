package engine

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"stoker/engine/processes"
)

// tail is where a worker's output goes: a log file, and a memory of the last lines that look like errors, so that its
// death is reported with a cause and not with an exit status.
type tail struct {
	log *logFile

	mu     sync.Mutex
	last   time.Time // of the last output
	errors []string
	lines  []string
}

const (
	tailErrors   = 12
	tailLines    = 12
	tailLineSize = 500 // bytes of a line that are remembered
)

var looksLikeError = regexp.MustCompile(`(?i)\b(error|exception|fatal|traceback|killed|out of memory|oom|abort(ed)?|segfault|no module named|not found)\b|Error:`)

// drain copies r until its end.
func (t *tail) drain(r io.ReadCloser) {
	defer r.Close()
	buf := make([]byte, 64<<10)
	var line []byte // as much as is remembered of the line that has not ended yet
	for {
		n, err := r.Read(buf)
		t.log.Write(buf[:n])
		for _, c := range buf[:n] {
			switch {
			case c == '\n' || c == '\r': // progress bars end in the latter
				t.remember(string(line))
				line = line[:0]
			case len(line) < tailLineSize:
				line = append(line, c)
			}
		}
		if n > 0 {
			t.touch()
		}
		if err != nil {
			t.remember(string(line))
			return
		}
	}
}

func (t *tail) touch() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = time.Now()
}

func (t *tail) remember(line string) {
	text := strings.TrimSpace(processes.Printable(line))
	if text == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = appendBounded(t.lines, text, tailLines)
	if looksLikeError.MatchString(text) {
		t.errors = appendBounded(t.errors, text, tailErrors)
	}
}

func appendBounded(s []string, v string, n int) []string {
	if len(s) >= n {
		s = slices.Delete(s, 0, len(s)-n+1)
	}
	return append(s, v)
}

// lastOutput is when the worker last wrote something.
func (t *tail) lastOutput() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// cause returns the last lines that look like errors, or the very last ones.
func (t *tail) cause() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.errors) > 0 {
		return slices.Clone(t.errors)
	}
	return slices.Clone(t.lines)
}

// logLimit is the size at which a worker's log is moved to worker.log.1, in bytes: a worker that floods its output must
// not fill the disk that holds the state.
const logLimit = 16 << 20

// logFile is a log of bounded size. Its errors are nobody's: a full disk must not stop a worker.
type logFile struct {
	path  string
	limit int64
	f     *os.File
	size  int64
}

// openLog opens a log for appending.
func openLog(path string, limit int64) (*logFile, error) {
	l := &logFile{path: path, limit: limit}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open worker log: %w", err)
	}
	return l, nil
}

func (l *logFile) open() error {
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.size = f, st.Size()
	return nil
}

// Write appends, to a new file if this one would become too large.
func (l *logFile) Write(b []byte) {
	if l.size > 0 && l.size+int64(len(b)) > l.limit {
		l.rotate()
	}
	n, _ := l.f.Write(b)
	l.size += int64(n)
}

func (l *logFile) rotate() {
	old := l.f
	if err := os.Rename(l.path, l.path+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.size = 0 // do not try again at each line
		return
	}
	if err := l.open(); err != nil {
		l.f, l.size = old, 0
		return
	}
	old.Close()
}

func (l *logFile) Close() { l.f.Close() }
