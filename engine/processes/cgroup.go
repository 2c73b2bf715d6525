package processes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Cgroup is the control group that systemd has given to stoker (Delegate=yes), to divide it as it likes: stoker itself is
// in the leaf "daemon", each worker in one of its own. The kernel kills such a leaf at once with all that is in it, whatever
// it calls itself and to whatever session it belongs. An empty Cgroup is none: there, workers are found by other marks.
//
// No controllers are handed down. A group that does so may hold no process of its own, and systemd, which starts stoker in
// this one, could not do it again while anything is left of a former life.
type Cgroup string // its folder

const (
	daemonLeaf   = "daemon"
	workerPrefix = "worker-"
)

// EnterDelegated moves this process into its leaf of the control group that it was given; "" if it was given none.
func EnterDelegated() (Cgroup, error) {
	own, err := ownCgroup()
	if own == "" || err != nil {
		return "", err
	}
	switch {
	case isDelegated(own):
	case isDelegated(filepath.Dir(own)): // systemd put us into a leaf (DelegateSubgroup=)
		return Cgroup(filepath.Dir(own)), nil
	default:
		return "", nil
	}
	leaf := filepath.Join(own, daemonLeaf)
	if err := os.Mkdir(leaf, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make control group: %w", err)
	}
	if err := moveTo(leaf, os.Getpid()); err != nil {
		return "", err
	}
	return Cgroup(own), nil
}

// ownCgroup is the folder of this process's control group of version 2; "" if there is none that can be seen.
func ownCgroup() (string, error) {
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(groups)) {
		if path, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			return cgroupDir(path, string(mounts)), nil
		}
	}
	return "", nil
}

// cgroupDir finds a control group among the mounts (proc_pid_mountinfo(5)). One outside what this process's namespace shows
// has a path that begins with dots.
func cgroupDir(path, mounts string) string {
	if strings.HasPrefix(path, "/..") {
		return ""
	}
	for line := range strings.Lines(mounts) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before) // number, parent, device, root, mount point, …
		if !strings.HasPrefix(after, "cgroup2 ") || len(fields) < 5 {
			continue
		}
		if below, err := filepath.Rel(fields[3], path); err == nil && filepath.IsLocal(below) {
			return filepath.Join(fields[4], below)
		}
	}
	return ""
}

// isDelegated reports whether systemd has marked a group as one that is ours. Older ones mark it for root alone, and give
// it to the service's user.
func isDelegated(dir string) bool {
	var mark [8]byte
	for _, name := range []string{"user.delegate", "trusted.delegate"} {
		if n, err := unix.Getxattr(dir, name, mark[:]); err == nil && string(mark[:n]) == "1" {
			return true
		}
	}
	return os.Geteuid() != 0 && ownerOf(dir) == os.Geteuid() && ownerOf(filepath.Dir(dir)) != os.Geteuid()
}

// ownerOf is the user that a folder belongs to, -1 if that is not known.
func ownerOf(dir string) int {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return -1
	}
	return int(st.Uid)
}

// leaf is the control group of one worker.
type leaf struct {
	dir  string
	open *os.File // to start the worker in
}

// newLeaf makes one for a worker that is to be started, nil if there are no control groups.
func (m Marks) newLeaf() (*leaf, error) {
	if m.Cgroup == "" {
		return nil, nil
	}
	former := m.Cgroup.numbered(workerPrefix) // as a former version called them, which did not tell whose they are
	for _, empty := range append(m.leaves(), former...) {
		os.Remove(empty) // which a moment after its last process was not possible
	}
	for n := 1; ; n++ {
		dir := filepath.Join(string(m.Cgroup), m.leafPrefix()+strconv.Itoa(n))
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("make control group: %w", err)
		}
		open, err := os.Open(dir)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open control group: %w", err), os.Remove(dir))
		}
		return &leaf{dir, open}, nil
	}
}

// start starts a command in the leaf, if there is one.
func (l *leaf) start(cmd *exec.Cmd) (*Child, error) {
	if l == nil {
		return Start(cmd)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(l.open.Fd())}
	c, err := Start(cmd)
	if err == nil {
		return c, nil
	}
	// A filter of system calls that cannot look into clone3 forbids it (RestrictNamespaces=). Then the worker goes there by itself.
	enter := []string{"-c", `echo $$ > "$0"; exec "$@"`, filepath.Join(l.dir, "cgroup.procs")}
	again := exec.Command("/bin/sh", append(enter, cmd.Args...)...)
	again.Env, again.ExtraFiles, again.Stdout, again.Stderr = cmd.Env, cmd.ExtraFiles, cmd.Stdout, cmd.Stderr
	return Start(again)
}

// remove takes away the leaf of a worker that is gone. One that cannot be removed is swept before the next worker.
func (l *leaf) remove() {
	if l != nil {
		l.open.Close()
		os.Remove(l.dir)
	}
}

func moveTo(dir string, pid int) error {
	f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(strconv.Itoa(pid))
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("move into control group: %w", err)
	}
	return nil
}

// path is "" for no leaf.
func (l *leaf) path() string {
	if l == nil {
		return ""
	}
	return l.dir
}

// killLeaf kills everything in a control group. Kernels before 5.14 cannot; there the processes are killed one by one.
func killLeaf(dir string) {
	if f, err := os.OpenFile(filepath.Join(dir, "cgroup.kill"), os.O_WRONLY, 0); err == nil {
		f.WriteString("1")
		f.Close()
	}
}

// isMember reports whether a process is in a control group. One that is gone has none, nor has "".
func isMember(dir string, pid int) bool { return dir != "" && slices.Contains(membersOf(dir), pid) }

// membersOf are the processes of a control group.
func membersOf(dir string) (pids []int) {
	list, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	for field := range strings.FieldsSeq(string(list)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// leafPrefix is what the names of the workers' control groups begin with; a number follows.
func (m Marks) leafPrefix() string { return workerPrefix + m.Instance + "-" }

// leaves are the control groups of workers.
func (m Marks) leaves() []string {
	if m.Cgroup == "" {
		return nil
	}
	return m.Cgroup.numbered(m.leafPrefix())
}

// numbered are the control groups whose names are a prefix and a number.
func (c Cgroup) numbered(prefix string) (dirs []string) {
	entries, _ := os.ReadDir(string(c))
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), prefix)
		if _, err := strconv.ParseUint(number, 10, 64); ok && err == nil {
			dirs = append(dirs, filepath.Join(string(c), e.Name()))
		}
	}
	return dirs
}
