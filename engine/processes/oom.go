package processes

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// OOMKills counts the processes that the kernel has killed because memory ran out, on this machine and in stoker's own
// control group, with all below it. What it cannot read counts as none.
func (c Cgroup) OOMKills() int64 {
	n := counter("/proc/vmstat", "oom_kill")
	if c != "" {
		return n + counter(filepath.Join(string(c), "memory.events"), "oom_kill")
	}
	groups, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(groups)) { // cgroups(7): NUMBER:CONTROLLERS:PATH
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case len(fields) != 3:
		case fields[1] == "":
			n += counter(filepath.Join("/sys/fs/cgroup", fields[2], "memory.events"), "oom_kill")
		case fields[1] == "memory":
			n += counter(filepath.Join("/sys/fs/cgroup/memory", fields[2], "memory.oom_control"), "oom_kill")
		}
	}
	return n
}

// counter reads the line "NAME NUMBER" of a file.
func counter(file, name string) int64 {
	b, _ := os.ReadFile(file)
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			return n
		}
	}
	return 0
}
