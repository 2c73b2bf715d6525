package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// replicaDir is where replicas but the first keep their log and the record of their processes, in LogDir; a number follows.
const replicaDir = "replica-"

// Start starts an engine of n replicas, each with a worker of its own; at least one. What workers of replicas that are no
// more left behind is killed before. The error is that of the log's folder.
func Start(o Options, n int) (Replica, error) {
	o.Replica = 1
	sweepFormer(&o, n)
	if n <= 1 {
		return NewSupervisor(o), nil
	}
	all := make([]Options, n)
	for i := range all {
		all[i] = o.replica(i + 1)
		if err := os.MkdirAll(all[i].LogDir, 0o700); err != nil {
			return nil, fmt.Errorf("make folder of replica %d: %w", i+1, err)
		}
	}
	var replicas []Replica
	for _, o := range all {
		replicas = append(replicas, NewSupervisor(o))
	}
	return NewReplicas(replicas), nil
}

// replica are the options of one replica. The first one has what a single worker has; the others' processes, control groups
// and files have a number of their own.
func (o Options) replica(n int) Options {
	o.Replica = n
	if n == 1 {
		return o
	}
	number := strconv.Itoa(n)
	o.Instance += "." + number
	o.LogDir = filepath.Join(o.LogDir, replicaDir+number)
	o.Cgroup = o.Cgroup.of(o.Instance)
	o.Logger = o.Logger.With().Int("replica", n).Logger()
	return o
}

// formerReplicas are those over n that have ever had a worker.
func formerReplicas(o *Options, n int) (former []Options) {
	dirs, _ := filepath.Glob(filepath.Join(o.LogDir, replicaDir+"*"))
	for _, dir := range dirs {
		number := dir[len(filepath.Join(o.LogDir, replicaDir)):]
		if k, err := strconv.Atoi(number); err == nil && k > max(n, 1) && strconv.Itoa(k) == number {
			former = append(former, o.replica(k))
		}
	}
	return former
}

func sweepFormer(o *Options, n int) {
	for _, f := range formerReplicas(o, n) {
		killed, err := sweep(&f)
		switch {
		case err != nil:
			f.Logger.Error().Err(err).Msg("what a former replica left behind is not gone")
			continue
		case killed > 0:
			f.Logger.Warn().Int("processes", killed).Msg("killed what a former replica left behind")
		}
		os.Remove(filepath.Join(f.LogDir, groupFile))
	}
}

// sweep kills what former workers left behind, and returns how many processes that were.
func sweep(o *Options) (int, error) {
	hidden, err := o.Cgroup.sweep() // first: what has other marks as well is counted once
	if err != nil {
		return hidden, err
	}
	n, err := Sweep(o.Instance, o.LogDir)
	return hidden + n, err
}

// AllLeftovers returns the living processes of all replicas that ever were, where no stoker runs: all of them are left over.
func AllLeftovers(instance, dir string) ([]Process, error) {
	o := &Options{Instance: instance, LogDir: dir}
	left, err := Leftovers(instance, dir, Tree{})
	for _, f := range formerReplicas(o, 1) {
		if err != nil {
			break
		}
		var more []Process
		more, err = Leftovers(f.Instance, f.LogDir, Tree{})
		left = append(left, more...)
	}
	return left, err
}
