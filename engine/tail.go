package engine

import (
	"bufio"
	"io"
	"os"
	"regexp"
	"sync"
	"time"
)

// tail is where a worker's output goes: a log file, and a memory of the last lines that look like errors, so that its
// death is reported with a cause and not with an exit status.
type tail struct {
	file *os.File

	mu     sync.Mutex
	last   time.Time // of the last line
	errors []string
	lines  []string
}

const (
	tailErrors   = 12
	tailLines    = 12
	tailLineSize = 500 // characters of a line that are remembered
	// logRotateAt is the size from which on a new start moves the worker's log to worker.log.1, in bytes.
	logRotateAt = 16 << 20
)

var looksLikeError = regexp.MustCompile(`(?i)\b(error|exception|fatal|traceback|killed|out of memory|oom|abort(ed)?|segfault|no module named|not found)\b|Error:`)

// openLog opens the worker's log for appending, and puts a large one aside.
func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > logRotateAt {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// drain copies r until its end.
func (t *tail) drain(r io.Reader) {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadSlice('\n') // a longer line comes in parts, which is good enough for a log
		if len(line) > 0 {
			t.file.Write(line) // a full disk must not stop the worker
			t.remember(line)
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

func (t *tail) remember(line []byte) {
	text := string(line[:min(len(line), tailLineSize)])
	for len(text) > 0 && (text[len(text)-1] == '\n' || text[len(text)-1] == '\r') {
		text = text[:len(text)-1]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = time.Now()
	if text == "" {
		return
	}
	t.lines = appendBounded(t.lines, text, tailLines)
	if looksLikeError.MatchString(text) {
		t.errors = appendBounded(t.errors, text, tailErrors)
	}
}

func appendBounded(s []string, v string, n int) []string {
	if len(s) >= n {
		s = append(s[:0], s[len(s)-n+1:]...)
	}
	return append(s, v)
}

// lastLine is when the worker last wrote something.
func (t *tail) lastLine() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

// cause returns the last lines that look like errors, or the very last ones.
func (t *tail) cause() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.errors) > 0 {
		return append([]string(nil), t.errors...)
	}
	return append([]string(nil), t.lines...)
}
