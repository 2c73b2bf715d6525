package engine

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// tokenVar is the environment variable that marks every process of a worker, renamed and re-parented ones too:
// INSTANCE:NUMBER, inherited by children.
const tokenVar = "STOKER_WORKER"

// treeTimeout is how long killing a process tree may take; a process in uninterruptible sleep needs longer than that.
const treeTimeout = 30 * time.Second

// killTree kills a worker with everything it started and waits until all of it is gone: vLLM's EngineCore survives the
// death of its parent with the memory (vllm-project/vllm#55510). leader is the worker's process, which leads its group.
func killTree(leader int, token string) error {
	return killAll(func(pid, group int, dir string) bool { return group == leader || hasVariable(dir, token) })
}

// Sweep kills what a former life of this stoker left behind, and returns how many processes that were. dir is where that
// life kept the worker's log.
func Sweep(instance, dir string) (int, error) {
	left := len(Leftovers(instance, dir))
	return left, killAll(isLeftover(instance, dir))
}

// Leftovers returns the processes of this stoker's workers that are alive.
func Leftovers(instance, dir string) []int { return living(isLeftover(instance, dir)) }

func isLeftover(instance, dir string) func(pid, group int, dir string) bool {
	last, known := lastGroup(dir)
	return func(_, group int, dir string) bool {
		return hasVariable(dir, instance+":") || known && group == last.id && last.holds(dir)
	}
}

// killAll kills the chosen processes until none is left. One that was chosen is waited for even when it can no longer be
// recognised, because its memory is being freed: that of a GPU may take a second.
func killAll(chosen func(pid, group int, dir string) bool) error {
	deadline := time.Now().Add(treeTimeout)
	killed := map[int]bool{}
	for {
		left := living(func(pid, group int, dir string) bool { return killed[pid] || chosen(pid, group, dir) })
		if len(left) == 0 {
			return nil
		}
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
}

// living returns the chosen processes that live. Dead ones that nobody has waited for do not.
func living(chosen func(pid, group int, dir string) bool) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		if group, alive := readStat(dir); alive && chosen(pid, group, dir) {
			pids = append(pids, pid)
		}
	}
	return pids
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
