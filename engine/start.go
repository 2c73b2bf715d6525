package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"stoker/engine/processes"
)

// replicaDir is where replicas but the first keep their log and the record of their processes, in LogDir; a number follows.
const replicaDir = "replica-"

// Start starts an engine of n replicas, each with a worker of its own; at least one. The first one begins with the death of
// what workers of replicas that are no more left behind. The error is that of the log's folder.
func Start(o Options, n int) (Engine, error) {
	o.Replica, o.former = 1, formerReplicas(&o, n)
	if n <= 1 {
		return newSupervisor(o), nil
	}
	o.turns = newTurns(n)
	all := make([]Options, n)
	for i := range all {
		all[i] = o.replica(i + 1)
		all[i].cleared = sync.OnceFunc(o.turns.cleared)
		if err := os.MkdirAll(all[i].LogDir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of replica %d: %w", i+1, err)
		}
	}
	var each []Engine
	for _, o := range all {
		each = append(each, newSupervisor(o))
	}
	return newReplicas(each), nil
}

// replica are the options of one replica. The first one has what a single worker has; the others' processes, control groups
// and files have a number of their own.
func (o Options) replica(n int) Options {
	o.Replica = n
	if n == 1 {
		return o
	}
	number := strconv.Itoa(n)
	o.former = nil
	o.Instance += "." + number
	o.LogDir = filepath.Join(o.LogDir, replicaDir+number)
	o.Logger = o.Logger.With().Int("replica", n).Logger()
	return o
}

// formerReplicas are those over n that have ever had a worker.
func formerReplicas(o *Options, n int) (former []processes.Marks) {
	dirs, _ := filepath.Glob(filepath.Join(o.LogDir, replicaDir+"*"))
	for _, dir := range dirs {
		number := dir[len(filepath.Join(o.LogDir, replicaDir)):]
		if k, err := strconv.Atoi(number); err == nil && k > max(n, 1) && strconv.Itoa(k) == number {
			former = append(former, o.replica(k).marks())
		}
	}
	return former
}

// marks are what this replica's processes are known by.
func (o Options) marks() processes.Marks {
	return processes.Marks{Instance: o.Instance, Dir: o.LogDir, Cgroup: o.Cgroup}
}

// allMarks are those of former replicas, too.
func (o *Options) allMarks() []processes.Marks { return append(slices.Clip(o.former), o.marks()) }

// sweep kills what former workers left behind, and returns how many processes that were.
func (o *Options) sweep() (killed int, err error) {
	for _, m := range o.allMarks() {
		n, err := m.Sweep()
		if killed += n; err != nil {
			return killed, err
		}
	}
	return killed, nil
}

// leftovers are the living processes of former workers: this replica's, and those that sweep kills before it starts.
func (o *Options) leftovers(current processes.Tree) (left []processes.Process, err error) {
	for _, m := range o.allMarks() {
		more, err := m.Leftovers(current)
		if err != nil {
			return nil, err
		}
		left = append(left, more...)
	}
	return left, nil
}

// AllLeftovers returns the living processes of all replicas that ever were, where no stoker runs: all of them are left over.
func AllLeftovers(instance, dir string) ([]processes.Process, error) {
	o := Options{Instance: instance, LogDir: dir}
	o.former = formerReplicas(&o, 1)
	return o.leftovers(processes.Tree{})
}
