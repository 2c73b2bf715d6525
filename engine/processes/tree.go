// Package processes starts processes that die with stoker, and finds and kills everything that workers started: what survives
// a worker holds the memory that the next one needs, and would be fed beside it.
package processes

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store/faults"
)

// tokenVar is the environment variable that marks every process of a worker, renamed and re-parented ones too:
// INSTANCE:RANDOM, inherited by children.
const tokenVar = "STOKER_WORKER"

// Marks are what the processes of a stoker's workers are known by.
type Marks struct {
	Instance string // begins the token in the environment
	Dir      string // where process groups are recorded
	Cgroup   Cgroup // has a leaf for each worker
}

// newToken makes the token of one worker. It is random because a stoker that was killed would count from one again.
func (m Marks) newToken() string { return m.Instance + ":" + rand.Text() }

// killTimeout is how long killing processes may take; a process in uninterruptible sleep needs longer than that.
const killTimeout = 30 * time.Second

// Tree is a worker with everything that it started. The zero Tree is that of no worker.
type Tree struct {
	Leader int    // the worker's process, which leads a group
	token  string // in the environment of all
	leaf   string // the control group of all, "" if there is none
}

func (t Tree) holds(p Stat) bool {
	return t.Leader > 0 && (p.Group == t.Leader || p.hasToken(t.token) || isMember(t.leaf, p.PID))
}

// Kill kills it and waits until all of it is gone: vLLM's EngineCore survives the death of its parent with the memory
// (vllm-project/vllm#55510).
func (t Tree) Kill() error {
	if faults.Planted("group-not-killed") {
		return killAll(func(p Stat) bool { return p.PID == t.Leader })
	}
	killLeaf(t.leaf)
	return killAll(t.holds)
}

// Sweep kills what former workers left behind, and returns how many processes that were.
func (m Marks) Sweep() (int, error) {
	if faults.Planted("group-not-killed") {
		return 0, nil
	}
	strays := m.strays(Tree{})
	left, err := living(strays)
	if err != nil {
		return 0, err
	}
	leaves := m.leaves()
	for _, dir := range leaves {
		killLeaf(dir)
	}
	err = killAll(strays)
	for _, dir := range leaves {
		os.Remove(dir)
	}
	return len(left), err
}

// Leftovers returns the living processes of workers that are not of the current one.
func (m Marks) Leftovers(current Tree) ([]Process, error) {
	left, err := living(m.strays(current))
	var all []Process
	for _, p := range left {
		all = append(all, Process{p.PID, p.Title()})
	}
	return all, err
}

// Process is one that is left over.
type Process struct {
	PID     int
	Command string
}

func (p Process) String() string { return fmt.Sprintf("%d (%s)", p.PID, p.Command) }

// strays chooses what bears the marks, but is not of the current worker.
func (m Marks) strays(current Tree) func(Stat) bool {
	groups, leaves := recordedGroups(m.Dir), m.leaves()
	return func(p Stat) bool {
		return !current.holds(p) && (p.hasToken(m.Instance+":") || slices.ContainsFunc(groups, func(g group) bool { return g.holds(p) }) ||
			slices.ContainsFunc(leaves, func(leaf string) bool { return isMember(leaf, p.PID) }))
	}
}

// killAll kills the chosen processes until none is left. One that was chosen is waited for even when it can no longer be
// recognised, because its memory is being freed: that of a GPU may take a second. A first look that finds none may have
// missed the child of a process that forked and ended under it; a second one has not.
func killAll(chosen func(Stat) bool) error {
	deadline := time.Now().Add(killTimeout)
	killed := map[int]bool{}
	for looks := 0; looks < 2; {
		left, err := living(func(p Stat) bool { return killed[p.PID] || chosen(p) })
		if err != nil {
			return fmt.Errorf("kill worker: %w", err)
		}
		if len(left) == 0 {
			looks++
			continue
		}
		looks = 0
		clear(killed)
		for _, p := range left {
			killed[p.PID] = true
			unix.Kill(p.PID, unix.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill worker: processes %v do not die", pids(left))
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

func pids(all []Stat) (numbers []int) {
	for _, p := range all {
		numbers = append(numbers, p.PID)
	}
	return numbers
}

// living returns the chosen processes that live. Dead ones that nobody has waited for do not.
func living(chosen func(Stat) bool) ([]Stat, error) {
	return List(func(p Stat) bool { return p.Lives() && chosen(p) })
}

// hasToken reports whether a process's environment has a token that begins so.
func (p Stat) hasToken(token string) bool {
	if token == "" {
		return false
	}
	prefix := []byte(tokenVar + "=" + token)
	env, err := os.ReadFile(p.path("environ"))
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
