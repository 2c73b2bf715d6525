package bench

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"stoker/engine/processes"
)

const (
	// stopGrace is how long a process may take to end in order, with its engine.
	stopGrace = 30 * time.Second
	// trackerGrace is what Python's resource tracker gets to remove what others left in shared memory.
	trackerGrace = 500 * time.Millisecond
)

// child is a process that leads a group of its own. The group dies with it, and it with stoker.
type child struct {
	cmd    *exec.Cmd
	log    string
	exited chan struct{}
	err    error // how it ended, once exited
}

// startChild starts a command whose output goes to a log.
func startChild(cmd *exec.Cmd, log string) (*child, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	p, err := processes.Start(cmd)
	if err != nil {
		return nil, err
	}
	c := &child{cmd: cmd, log: log, exited: make(chan struct{})}
	go func() {
		<-p.Exited()
		awaitGroup(c.pid())
		unix.Kill(-c.pid(), unix.SIGKILL) // before it is reaped: its number is still its own
		p.Bury()
		c.err = p.Wait()
		close(c.exited)
	}()
	return c, nil
}

// awaitGroup waits until nobody but its leader, which has ended, is left of a group.
func awaitGroup(leader int) {
	for end := time.Now().Add(trackerGrace); time.Now().Before(end); time.Sleep(lookEvery) {
		if len(members(leader)) <= 1 {
			return
		}
	}
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop waits for the process to end after it was asked to, and kills it if it does not.
func (c *child) stop() {
	select {
	case <-c.exited:
	case <-time.After(stopGrace):
		c.kill()
	}
}

func (c *child) kill() {
	unix.Kill(-c.pid(), unix.SIGKILL)
	<-c.exited
}

// death is the error of a process that should not have ended.
func (c *child) death() error {
	return fmt.Errorf("%s ended: %v%s", c.cmd.Path, c.err, lastLines(c.log))
}

// until waits for something, for the end of the process, or for ctx's.
func (c *child) until(ctx context.Context, every time.Duration, so func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if done, err := so(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.exited:
			return c.death()
		case <-tick.C:
		}
	}
}

// lastLines is the end of a log, for an error.
func lastLines(path string) string {
	const lines = 15
	log, err := os.ReadFile(path)
	if err != nil || len(log) == 0 {
		return ""
	}
	all := bytes.Split(bytes.TrimRight(log, "\n"), []byte("\n"))
	return "; the end of " + path + ":\n" + string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
