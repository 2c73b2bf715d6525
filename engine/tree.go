package engine

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store/faults"
)

// tokenVar is the environment variable that marks every process of a worker, renamed and re-parented ones too:
// INSTANCE:RANDOM, inherited by children.
const tokenVar = "STOKER_WORKER"

// newToken makes the token of one worker. It is random because a stoker that was killed would count from one again.
func newToken(instance string) string { return instance + ":" + rand.Text() }

// treeTimeout is how long killing a process tree may take; a process in uninterruptible sleep needs longer than that.
const treeTimeout = 30 * time.Second

// Tree names a worker with everything that it started. The zero Tree is that of no worker.
type Tree struct {
	Leader int    // the worker's process, which leads a group
	Token  string // in the environment of all
	Leaf   string // the control group of all, "" if there is none
}

func (t Tree) holds(pid, group int, dir string) bool {
	return t.Leader > 0 && (group == t.Leader || hasVariable(dir, t.Token) || t.Leaf != "" && slices.Contains(membersOf(t.Leaf), pid))
}

// Process is one that belongs, or belonged, to a worker.
type Process struct {
	PID     int
	Command string
}

func (p Process) String() string { return fmt.Sprintf("%d (%s)", p.PID, p.Command) }

// chooser decides on a process by its number, its group and its folder in /proc.
type chooser func(pid, group int, dir string) bool

// killTree kills a worker with everything it started and waits until all of it is gone: vLLM's EngineCore survives the
// death of its parent with the memory (vllm-project/vllm#55510).
func killTree(t Tree) error {
	if faults.Planted("group-not-killed") {
		return killAll(func(pid, _ int, _ string) bool { return pid == t.Leader })
	}
	if t.Leaf != "" {
		killLeaf(t.Leaf)
	}
	return killAll(t.holds)
}

// Sweep kills what former workers of this stoker left behind, and returns how many processes that were. dir is where
// their groups are recorded.
func Sweep(instance, dir string) (int, error) {
	if faults.Planted("group-not-killed") {
		return 0, nil
	}
	left, err := Leftovers(instance, dir, Tree{})
	if err != nil {
		return 0, err
	}
	return len(left), killAll(isLeftover(instance, dir, Tree{}))
}

// Leftovers returns the living processes of this stoker's workers that are not of the current one.
func Leftovers(instance, dir string, current Tree) ([]Process, error) {
	return processes(isLeftover(instance, dir, current))
}

// processes are the chosen ones that live.
func processes(chosen chooser) ([]Process, error) {
	pids, err := living(chosen)
	if err != nil {
		return nil, err
	}
	var all []Process
	for _, pid := range pids {
		all = append(all, Process{PID: pid, Command: commandLine(pid)})
	}
	return all, nil
}

func isLeftover(instance, dir string, current Tree) chooser {
	groups := recordedGroups(dir)
	return func(pid, id int, dir string) bool {
		if current.holds(pid, id, dir) {
			return false
		}
		return hasVariable(dir, instance+":") || slices.ContainsFunc(groups, func(g group) bool { return g.id == id && g.holds(dir) })
	}
}

// killAll kills the chosen processes until none is left. One that was chosen is waited for even when it can no longer be
// recognised, because its memory is being freed: that of a GPU may take a second. A first look that finds none may have
// missed the child of a process that forked and ended under it; a second one has not.
func killAll(chosen chooser) error {
	deadline := time.Now().Add(treeTimeout)
	killed := map[int]bool{}
	for looks := 0; looks < 2; {
		left, err := living(func(pid, group int, dir string) bool { return killed[pid] || chosen(pid, group, dir) })
		if err != nil {
			return fmt.Errorf("kill worker: %w", err)
		}
		if len(left) == 0 {
			looks++
			continue
		}
		looks = 0
		clear(killed)
		for _, pid := range left {
			killed[pid] = true
			unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill worker: processes %v do not die", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// living returns the chosen processes that live. Dead ones that nobody has waited for do not.
func living(chosen chooser) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		if group, alive := readStat(dir); alive && chosen(pid, group, dir) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// commandLine is what a process was started with, or calls itself.
func commandLine(pid int) string {
	line, _ := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
	return printable(strings.Join(strings.FieldsFunc(string(line), func(r rune) bool { return r == 0 }), " "))
}

// hasVariable reports whether a process's environment has a token that begins so.
func hasVariable(dir, token string) bool {
	prefix := []byte(tokenVar + "=" + token)
	env, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil {
		return false
	}
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.HasPrefix(v, prefix) {
			return true
		}
	}
	return false
}

// readStat returns a process's group and whether it lives (proc_pid_stat(5)). One whose first thread has ended lives as
// long as others of its threads do.
func readStat(dir string) (group int, alive bool) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return 0, false // gone meanwhile
	}
	at := bytes.LastIndex(stat, []byte(") ")) // the name before may hold anything
	fields := bytes.Fields(stat[at+1:])       // state, parent, group, …
	if at < 0 || len(fields) < 3 {
		return 0, false
	}
	state := fields[0][0]
	group, err = strconv.Atoi(string(fields[2]))
	return group, err == nil && state != 'X' && (state != 'Z' || hasThreads(dir))
}

func hasThreads(dir string) bool {
	threads, err := os.ReadDir(filepath.Join(dir, "task"))
	return err == nil && len(threads) > 1
}
