package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// Launch is how a worker is started.
type Launch struct {
	Argv        []string
	Env         []string // whole environment, without the token
	Model       string
	ServedNames []string
	Args        map[string]any
}

// process is one life of a worker: its pipes and the goroutines that serve them. The supervisor's goroutine owns it.
type process struct {
	cmd   *exec.Cmd
	token string
	tail  *tail

	messages chan []message // closed when the worker's replies end
	exited   chan error     // the process itself is gone

	mu     sync.Mutex
	queue  []byte // for the worker, not yet written
	wake   chan struct{}
	closed bool
}

// startProcess starts a worker in a process group of its own, with requests on fd 3 and replies on fd 4.
func startProcess(l Launch, token string, log *os.File) (*process, error) {
	requestsR, requestsW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	repliesR, repliesW, err := os.Pipe()
	if err != nil {
		closeAll(requestsR, requestsW)
		return nil, fmt.Errorf("start worker: %w", err)
	}
	logR, logW, err := os.Pipe()
	if err != nil {
		closeAll(requestsR, requestsW, repliesR, repliesW)
		return nil, fmt.Errorf("start worker: %w", err)
	}
	cmd := exec.Command(l.Argv[0], l.Argv[1:]...)
	cmd.Env = append(l.Env, tokenVar+"="+token)
	cmd.ExtraFiles = []*os.File{requestsR, repliesW}
	cmd.Stdout, cmd.Stderr = logW, logW
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	p := &process{
		cmd: cmd, token: token, tail: &tail{file: log},
		messages: make(chan []message, 16), exited: make(chan error, 1), wake: make(chan struct{}, 1),
	}
	err = p.spawn()
	closeAll(requestsR, repliesW, logW)
	if err != nil {
		closeAll(requestsW, repliesR, logR)
		return nil, fmt.Errorf("start worker %s: %w", l.Argv[0], err)
	}
	go p.write(requestsW)
	go p.read(repliesR)
	go func() { p.tail.drain(logR); logR.Close() }()
	return p, nil
}

func closeAll(files ...*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// spawn starts the child from a thread that lives as long as the child does: PR_SET_PDEATHSIG fires when the thread that
// made the child ends (golang/go#27505).
func (p *process) spawn() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.exited <- p.cmd.Wait()
		}
	}()
	return <-started
}

// send queues a message. It never blocks: what is in flight is bounded by the capacity.
func (p *process) send(add func([]byte) []byte) {
	p.mu.Lock()
	p.queue = add(p.queue)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *process) closeRequests() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// write hands queued messages to the worker, as many as there are at once.
func (p *process) write(w *os.File) {
	defer w.Close()
	var out []byte
	for range p.wake {
		p.mu.Lock()
		out, p.queue = p.queue, out[:0]
		closed := p.closed
		p.mu.Unlock()
		if _, err := w.Write(out); err != nil || closed {
			return // a dead worker is noticed by its exit
		}
	}
}

// read hands the worker's messages on, as many as one read brought.
func (p *process) read(r *os.File) {
	defer close(p.messages)
	defer r.Close()
	in := lineReader{r: r}
	for {
		lines, err := in.lines()
		if err != nil {
			return
		}
		batch := make([]message, 0, len(lines))
		for _, line := range lines {
			m, err := parseMessage(line)
			if err != nil {
				p.tail.remember([]byte(err.Error()))
				m = message{Type: "garbage", Message: err.Error()}
			}
			batch = append(batch, m)
		}
		p.messages <- batch
	}
}

// kill ends the worker with its whole tree and waits for its goroutines.
func (p *process) kill() (exit error, err error) {
	p.closeRequests()
	err = killTree(p.cmd.Process.Pid, p.token)
	exit = <-p.exited
	for range p.messages { // what it still said is of no use
	}
	return exit, err
}

// exitText says how a process ended, for people.
func exitText(err error) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		if err != nil {
			return err.Error()
		}
		return "exit status 0"
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		if ws.Signal() == syscall.SIGKILL {
			return "killed by SIGKILL (by a person, or by the kernel because memory ran out)"
		}
		return "killed by " + ws.Signal().String()
	}
	return exit.String()
}
