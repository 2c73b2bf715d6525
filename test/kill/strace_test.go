package kill

import (
	"bytes"
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
	thread, name string
	args         string
	injected     bool // with a fault
}

var callLine = regexp.MustCompile(`^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)`)

// readTrace reads what strace saw. A call that another thread interrupts stands in two lines; both are told, the second
// without arguments.
func readTrace(path string) ([]call, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var all []call
	for line := range bytes.Lines(raw) {
		m := callLine.FindSubmatch(line)
		if m == nil {
			continue // a signal, or a thread's end
		}
		all = append(all, call{thread: string(m[1]), name: string(m[2]), args: string(m[3]), injected: bytes.Contains(line, []byte("(INJECTED)"))})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: strace saw nothing", path)
	}
	return all, nil
}
