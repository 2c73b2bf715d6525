package machine

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// agent speaks with QEMU's guest agent, which answers each request in its turn. The first waits until the machine is up.
type agent struct {
	mu      sync.Mutex
	conn    net.Conn
	answers *bufio.Reader
}

func newAgent(conn net.Conn) *agent { return &agent{conn: conn, answers: bufio.NewReader(conn)} }

const (
	// answerTime bounds one answer; the first one takes a boot.
	answerTime = 6 * time.Minute
	// runTime bounds a script.
	runTime = 8 * time.Minute
)

type request struct {
	Execute   string `json:"execute"`
	Arguments any    `json:"arguments"`
}

type execArguments struct {
	Path    string   `json:"path"`
	Arg     []string `json:"arg"`
	Env     []string `json:"env"`
	Input   []byte   `json:"input-data,omitempty"` // base64
	Capture bool     `json:"capture-output"`
}

type execStatus struct {
	Exited bool   `json:"exited"`
	Code   int    `json:"exitcode"`
	Signal int    `json:"signal"`
	Out    string `json:"out-data"`
	Err    string `json:"err-data"`
	Cut    bool   `json:"out-truncated"`
}

// run runs a script and waits for its end.
func (a *agent) run(script, stdin string) (r Result, err error) {
	var started struct {
		PID int `json:"pid"`
	}
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	exec := execArguments{Path: "/bin/bash", Arg: []string{"-c", script}, Env: env, Input: []byte(stdin), Capture: true}
	if err := a.call("guest-exec", exec, &started); err != nil {
		return r, err
	}
	var status execStatus
	pause := 50 * time.Millisecond
	for end := time.Now().Add(runTime); !status.Exited; {
		if time.Now().After(end) {
			return r, fmt.Errorf("no end after %s of: %s", runTime, script)
		}
		time.Sleep(pause)
		pause = min(pause*3/2, 250*time.Millisecond)
		if err := a.call("guest-exec-status", started, &status); err != nil {
			return r, err
		}
	}
	if status.Cut {
		return r, fmt.Errorf("more output than the agent keeps: %s", script)
	}
	out, err1 := base64.StdEncoding.DecodeString(status.Out)
	errs, err2 := base64.StdEncoding.DecodeString(status.Err)
	r = Result{Stdout: string(out), Stderr: string(errs), Code: status.Code}
	if status.Signal != 0 {
		r.Code = 128 + status.Signal
	}
	return r, errors.Join(err1, err2)
}

// call makes one request and reads its answer.
func (a *agent) call(command string, arguments, answer any) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked, err := json.Marshal(request{command, arguments})
	if err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	a.conn.SetDeadline(time.Now().Add(answerTime))
	if _, err := a.conn.Write(append(asked, '\n')); err != nil {
		return fmt.Errorf("ask the agent: %w", err)
	}
	line, err := a.answers.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("wait for the agent's answer: %w", err)
	}
	var reply struct {
		Return jsontext.Value `json:"return"`
		Error  *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	if err := json.Unmarshal(line, &reply); err != nil {
		return fmt.Errorf("read the agent's answer %q: %w", line, err)
	}
	if reply.Error != nil {
		return fmt.Errorf("the agent refuses %s: %s", command, reply.Error.Desc)
	}
	return json.Unmarshal(reply.Return, answer)
}
