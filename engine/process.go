package engine

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"stoker/engine/processes"
	"stoker/engine/protocol"
)

// Launch is how a worker is started.
type Launch struct {
	Argv        []string
	Env         []string // whole environment, without the token
	Model       string
	ServedNames []string
	Args        map[string]any
	SharedGPUs  string // other replicas with the same ones load before or after this one; "": it has its own, or none
}

// process is one life of a worker: its pipes and the goroutines that serve them. The supervisor's goroutine owns it.
type process struct {
	child *processes.Child
	tail  *tail
	pipes pipes
	out   *protocol.Writer

	replies chan replies  // closed when the worker's end
	logged  chan struct{} // closed when its output has been read
}

// pipes are the daemon's ends.
type pipes struct{ requests, replies, log *os.File }

// startProcess starts a worker with requests on fd 3 and replies on fd 4.
func startProcess(l Launch, marks processes.Marks, log *logFile) (*process, error) {
	if len(l.Argv) == 0 {
		return nil, errors.New("start worker: no command")
	}
	ours, theirs, err := makePipes()
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	cmd := exec.Command(l.Argv[0], l.Argv[1:]...)
	cmd.Env = l.Env
	cmd.ExtraFiles = []*os.File{theirs.requests, theirs.replies}
	cmd.Stdout, cmd.Stderr = theirs.log, theirs.log
	child, err := marks.Start(cmd)
	theirs.close()
	if err != nil {
		ours.close()
		return nil, fmt.Errorf("start worker %s: %w", l.Argv[0], err)
	}
	p := &process{
		child: child, tail: &tail{log: log}, pipes: ours, out: protocol.NewWriter(ours.requests),
		replies: make(chan replies, 16), logged: make(chan struct{}),
	}
	go p.read()
	go func() { defer close(p.logged); p.tail.drain(ours.log) }()
	return p, nil
}

func makePipes() (ours, theirs pipes, err error) {
	defer func() {
		if err != nil {
			ours.close()
			theirs.close()
		}
	}()
	if theirs.requests, ours.requests, err = os.Pipe(); err != nil {
		return ours, theirs, err
	}
	if ours.replies, theirs.replies, err = os.Pipe(); err != nil {
		return ours, theirs, err
	}
	widen(ours.requests)
	widen(ours.replies)
	ours.log, theirs.log, err = os.Pipe()
	return ours, theirs, err
}

// pipeSize is the most that Linux gives a pipe of anybody's, in bytes.
const pipeSize = 1 << 20

// widen makes both ends of a pipe wait for each other less often. A system that does not grant it has pipes of 64 KiB.
func widen(end *os.File) {
	if conn, err := end.SyscallConn(); err == nil { // Fd would end its deadlines
		conn.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
}

func (p pipes) close() {
	for _, f := range []*os.File{p.requests, p.replies, p.log} {
		f.Close() // a nil *os.File returns an error, too
	}
}

// replies are what one read of a worker brought.
type replies struct {
	answers  Answers
	messages []message // all others
}

// read hands the worker's replies on.
func (p *process) read() {
	defer close(p.replies)
	defer p.pipes.replies.Close()
	in := protocol.NewReader(p.pipes.replies)
	for {
		lines, err := in.Lines()
		if err != nil {
			return
		}
		p.replies <- p.parse(lines)
	}
}

func (p *process) parse(lines [][]byte) replies {
	r := replies{answers: make(Answers, 0, len(lines))}
	for _, line := range lines {
		if a, ok := parseAnswer(line); ok {
			r.answers = append(r.answers, a)
			continue
		}
		m, err := parseMessage(line)
		switch {
		case err != nil:
			p.tail.remember(err.Error())
			r.messages = append(r.messages, message{Type: typeGarbage, Message: err.Error()})
		case m.Type == "result", m.Type == "error":
			r.answers = append(r.answers, Answer{Key: m.Key, Status: m.Status, Body: m.Body})
		default:
			r.messages = append(r.messages, m)
		}
	}
	return r
}

func (r *replies) add(more replies) {
	r.answers = append(r.answers, more.answers...)
	r.messages = append(r.messages, more.messages...)
}

// end is how a worker's life ended.
type end struct {
	rest     replies // what it still said
	byItself bool    // nobody had to kill it
	exit     error   // of the process; only if byItself
	err      error   // something of it is still alive
}

// pipeGrace is how long pipes are read after the last process that is known to hold them has gone.
const pipeGrace = time.Second

// end gives the worker some time to leave, until abort is closed, kills it with its whole tree and waits for its goroutines.
func (p *process) end(grace time.Duration, abort <-chan struct{}) end {
	var e end
	e.rest, e.byItself = p.awaitExit(grace, abort)
	e.err = p.child.Tree().Kill()
	p.child.Bury()
	// A process that hid from us may hold the other ends for ever.
	for _, f := range []*os.File{p.pipes.replies, p.pipes.log} {
		f.SetReadDeadline(time.Now().Add(pipeGrace))
	}
	p.pipes.requests.SetWriteDeadline(time.Now()) // wakes a writer whose pipe nobody reads
	p.out.Close()
	p.pipes.requests.Close()
	for r := range p.replies {
		e.rest.add(r)
	}
	<-p.logged
	if e.err == nil {
		e.exit = p.child.Wait()
	}
	return e
}

// awaitExit waits for the process to end by itself. It reads on: a worker that cannot write does not end either.
func (p *process) awaitExit(grace time.Duration, abort <-chan struct{}) (rest replies, exited bool) {
	timeout := time.NewTimer(grace)
	defer timeout.Stop()
	incoming := p.replies
	for {
		select {
		case r, open := <-incoming:
			if !open {
				incoming = nil
			}
			rest.add(r)
		case <-p.child.Exited():
			return rest, true
		case <-timeout.C:
			return rest, false
		case <-abort:
			return rest, false
		}
	}
}

// exitText says how a process ended, for people.
func exitText(err error) string {
	if by := signalOf(err); by != 0 {
		return "killed by " + unix.SignalName(by)
	}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.String()
	case err != nil:
		return err.Error()
	}
	return "exit status 0"
}

// signalOf is the signal that killed a process, 0 if none did.
func signalOf(err error) syscall.Signal {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return 0
	}
	if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return ws.Signal()
	}
	return 0
}
