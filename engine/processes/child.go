package processes

import (
	"errors"
	"os/exec"
	"runtime"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Child is a process that leads a group of its own and dies with stoker.
type Child struct {
	NoLeaf error // why it has no control group of its own, if it should

	cmd    *exec.Cmd
	token  string // "" if it is no worker
	leaf   *leaf  // nil: none
	exited chan struct{}
	buried chan struct{}
	reaped chan struct{}
	exit   error // once reaped
}

// Start starts a command.
func Start(cmd *exec.Cmd) (*Child, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid, cmd.SysProcAttr.Pdeathsig = true, syscall.SIGKILL
	c := &Child{cmd: cmd, exited: make(chan struct{}), buried: make(chan struct{}), reaped: make(chan struct{})}
	started := make(chan error)
	go c.live(started)
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// Start starts a worker, whose command has an environment, so that it can be found with everything that it starts. It has no
// control group of its own if that cannot be: it is not worth going without an engine.
func (m Marks) Start(cmd *exec.Cmd) (*Child, error) {
	token := m.newToken()
	cmd.Env = append(slices.Clone(cmd.Env), tokenVar+"="+token)
	leaf, noLeaf := m.newLeaf()
	c, err := leaf.start(cmd)
	if err != nil {
		leaf.remove()
		return nil, err
	}
	c.token, c.leaf, c.NoLeaf = token, leaf, noLeaf
	return c, nil
}

// live starts the child from a thread that lives as long as the child does: PR_SET_PDEATHSIG fires when the thread that
// made the child ends (golang/go#27505).
func (c *Child) live(started chan<- error) {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	err := c.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	awaitZombie(c.PID())
	close(c.exited)
	<-c.buried
	c.exit = c.cmd.Wait()
	close(c.reaped)
}

// awaitZombie waits for a child to end and leaves it unreaped, so that killing its group cannot hit a stranger that was
// given the same number.
func awaitZombie(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// PID is the child's number, and its group's.
func (c *Child) PID() int { return c.cmd.Process.Pid }

// Exited is closed when the child has ended. Its number and group are still its own, until Bury.
func (c *Child) Exited() <-chan struct{} { return c.exited }

// Bury has the child reaped when it has ended. It is called once.
func (c *Child) Bury() { close(c.buried) }

// Wait returns how a child that may be buried ended.
func (c *Child) Wait() error {
	<-c.reaped
	c.leaf.remove()
	return c.exit
}

// Tree is a worker with everything that it started.
func (c *Child) Tree() Tree { return Tree{Leader: c.PID(), token: c.token, leaf: c.leaf.path()} }
