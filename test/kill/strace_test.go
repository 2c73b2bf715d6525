package kill

import (
	"fmt"
	"os"
	"regexp"
	"strings"
)

// calls are the system calls that change files, whether stoker makes them today or not. A file is also made by openat;
// dying just after that is dying before what it does next.
var calls = []string{
	"write", "writev", "pwrite64", "pwritev", "pwritev2", "copy_file_range", "sendfile", "splice", "fallocate",
	"truncate", "ftruncate", "fsync", "fdatasync", "sync", "syncfs", "sync_file_range", "msync",
	"rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
}

// strace is what a stoker runs under. It becomes stoker's process and leaves the worker alone. What it sees goes to a
// file.
func strace(seen string, calls []string, inject string) []string {
	args := []string{"strace", "--daemonize", "-f", "--detach-on=execve", "-qqq", "-y", "-s", "0", "-o", seen, "-e", "trace=" + strings.Join(calls, ",")}
	if inject != "" {
		args = append(args, "-e", "inject="+inject)
	}
	return args
}

// call is one system call that strace saw.
type call struct {
	thread, name, args string
	injected           bool // it failed because it was told to
}

var callLine = regexp.MustCompile(`^(\d+) +(<\.\.\. )?(\w+)(.*)`)

// readTrace reads what strace saw. A call that another thread interrupts stands in two lines, of which the second one
// tells how it ended.
func readTrace(path string) ([]call, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []call
	last := map[string]int{} // of a thread
	for line := range strings.Lines(string(raw)) {
		m := callLine.FindStringSubmatch(line)
		if m == nil {
			continue // a signal, or a thread's end
		}
		thread, resumed, name, rest := m[1], m[2] != "", m[3], m[4]
		if !resumed {
			last[thread] = len(all)
			all = append(all, call{thread: thread, name: name, args: rest})
		}
		if i, ok := last[thread]; ok && strings.Contains(rest, "(INJECTED)") {
			all[i].injected = true
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: strace saw nothing", path)
	}
	return all, nil
}
