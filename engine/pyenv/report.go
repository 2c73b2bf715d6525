package pyenv

import (
	"bufio"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
)

// report tells the user what is being done, a line for each step, with how long it took.
type report struct {
	out io.Writer
}

func (r report) line(format string, args ...any) {
	fmt.Fprintf(r.out, format+"\n", args...)
}

// step runs do, named what, and tells how long it took.
func (r report) step(what string, do func() error) error {
	r.line("%s …", what)
	start := time.Now()
	if err := do(); err != nil {
		return err
	}
	r.line("  done in %s", time.Since(start).Round(100*time.Millisecond))
	return nil
}

// size writes bytes as people do.
func size(bytes uint64) string { return humanize.Bytes(bytes) }

// filter decides which lines of a program's output are shown.
type filter interface{ worth(line string) bool }

// nothing shows no line.
type nothing struct{}

func (nothing) worth(string) bool { return false }

// lastLines is how much of a failed program's output an error shows.
const lastLines = 12

// stream runs cmd, passes on the lines of its output that f finds worth showing, and returns the last ones. cmd dies with
// this process: an installer left behind would write into what the next Setup makes.
func (r report) stream(cmd *exec.Cmd, f filter) (last []string, err error) {
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // it is the thread's death that the kernel looks at
	defer runtime.UnlockOSThread()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		last = r.pass(reader, f)
	}()
	err = cmd.Run()
	writer.Close()
	<-copied
	return last, err
}

// pass shows what f finds worth it of in's lines, until in ends.
func (r report) pass(in io.Reader, f filter) (last []string) {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if line == "" {
			continue
		}
		if f.worth(line) {
			r.line("  %s", line)
		}
		if last = append(last, line); len(last) > lastLines {
			last = last[1:]
		}
	}
	// A line too long to hold ends the scan; the program must not block because nobody reads on.
	_, _ = io.Copy(io.Discard, in)
	return last
}
