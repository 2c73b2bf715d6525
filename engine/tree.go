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
// death of its parent with the memory (vllm-project/vllm#55510). The group may be 0 if it is not known.
func killTree(group int, token string) error {
	if group > 0 {
		unix.Kill(-group, unix.SIGKILL)
	}
	deadline := time.Now().Add(treeTimeout)
	for {
		left := processesWith(token)
		if len(left) == 0 {
			return nil
		}
		for _, pid := range left {
			unix.Kill(pid, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill worker: processes %v do not die", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Sweep kills what a former life of this stoker left behind, and returns how many processes that were.
func Sweep(instance string) (int, error) {
	left := len(processesWith(instance + ":"))
	return left, killTree(0, instance+":")
}

// Leftovers returns the processes of this stoker's workers that are alive.
func Leftovers(instance string) []int { return processesWith(instance + ":") }

// processesWith returns the living processes whose environment has a token that begins with prefix. Dead ones that
// nobody has waited for are not living.
func processesWith(prefix string) []int {
	want := []byte(tokenVar + "=" + prefix)
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !hasVariable(env, want) || isZombie(dir) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

func hasVariable(env, prefix []byte) bool {
	for v := range bytes.SplitSeq(env, []byte{0}) {
		if bytes.HasPrefix(v, prefix) {
			return true
		}
	}
	return false
}

func isZombie(dir string) bool {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return true // gone meanwhile
	}
	_, rest, _ := bytes.Cut(stat, []byte(") ")) // the name before may hold anything
	return len(rest) > 0 && (rest[0] == 'Z' || rest[0] == 'X')
}
