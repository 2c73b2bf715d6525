package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/engine/echo"
	"stoker/engine/protocol"
	"stoker/hint"
)

// echoLoop is a bare loop around the echo worker: lines in, requests through its pipe, answers to a file, one sync at the
// end. What stoker adds to it is what stoker costs.
type echoLoop struct {
	binary string
	folder string
	args   map[string]any

	child    *child
	requests *os.File
	pipe     *os.File
	replies  *bufio.Reader
}

const pipeBuffer = 1 << 20

func (e *echoLoop) start(ctx context.Context) (Loaded, error) {
	began := time.Now()
	if err := os.MkdirAll(e.folder, 0o755); err != nil {
		return Loaded{}, err
	}
	theirRequests, requests, err := os.Pipe()
	if err != nil {
		return Loaded{}, err
	}
	defer theirRequests.Close()
	replies, theirReplies, err := os.Pipe()
	if err != nil {
		return Loaded{}, errors.Join(err, requests.Close())
	}
	defer theirReplies.Close()
	e.requests, e.pipe, e.replies = requests, replies, bufio.NewReaderSize(replies, pipeBuffer)
	cmd := exec.Command(e.binary, echo.Command)
	cmd.ExtraFiles = []*os.File{theirRequests, theirReplies}
	if e.child, err = startChild(cmd, filepath.Join(e.folder, "log")); err != nil {
		return Loaded{}, fmt.Errorf("start echo worker: %w", err)
	}
	defer context.AfterFunc(ctx, e.child.kill)()
	args, err := json.Marshal(e.args)
	if err != nil {
		return Loaded{}, err
	}
	if _, err := fmt.Fprintf(e.requests, `{"type":"start","protocol":%d,"served_names":["*"],"args":%s}`+"\n", protocol.Version, args); err != nil {
		return Loaded{}, err
	}
	if err := e.awaitReady(); err != nil {
		return Loaded{}, err
	}
	return Loaded{Seconds: time.Since(began).Seconds()}, nil
}

func (e *echoLoop) awaitReady() error {
	for {
		line, err := e.replies.ReadBytes('\n')
		if err != nil {
			<-e.child.exited
			return e.child.death()
		}
		var m struct {
			Type    string `json:"type"`
			Message string `json:"message"`
		}
		if err := json.Unmarshal(line, &m); err != nil {
			return err
		}
		switch m.Type {
		case "ready":
			return nil
		case "fatal":
			return &hint.Error{Message: m.Message}
		}
	}
}

func (e *echoLoop) run(ctx context.Context, _ string, files []string) (Sample, error) {
	defer context.AfterFunc(ctx, e.child.kill)()
	beforeSelf, before, began := ownCPU(), cpuOf(0, e.child.pid()), time.Now()
	var texts [][]byte
	var requests int64
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			return Sample{}, err
		}
		texts = append(texts, text)
		requests += int64(bytes.Count(text, []byte("\n")))
	}
	sent := make(chan error, 1)
	go func() { sent <- e.feed(texts) }()
	s, err := e.collect(requests)
	if err != nil {
		return s, errors.Join(ctx.Err(), err)
	}
	if err := <-sent; err != nil {
		return s, err
	}
	s.Seconds = time.Since(began).Seconds()
	s.CPU = CPU{Stoker: ownCPU() - beforeSelf, Engine: cpuOf(0, e.child.pid()).minus(before).Front}
	return s, nil
}

// feed sends all lines.
func (e *echoLoop) feed(texts [][]byte) error {
	w := bufio.NewWriterSize(e.requests, pipeBuffer)
	key := 0
	for _, text := range texts {
		for line := range bytes.Lines(text) {
			var r struct {
				Body jsontext.Value `json:"body"`
			}
			if err := json.Unmarshal(line, &r); err != nil {
				return err
			}
			key++
			fmt.Fprintf(w, `{"type":"request","key":%d,"url":%q,"form":"openai","line":%d,"body":%s}`+"\n", key, chatURL, key, r.Body)
		}
	}
	return w.Flush()
}

// collect writes answers out until all have come, and syncs.
func (e *echoLoop) collect(requests int64) (s Sample, err error) {
	out, err := os.Create(filepath.Join(e.folder, "output.jsonl"))
	if err != nil {
		return s, err
	}
	defer out.Close()
	w := bufio.NewWriterSize(out, pipeBuffer)
	for s.Requests < requests {
		line, err := e.replies.ReadBytes('\n')
		if err != nil {
			<-e.child.exited
			return s, e.child.death()
		}
		switch {
		case bytes.HasPrefix(line, []byte(`{"type":"result"`)):
			s.Tokens += completionTokens(line)
		case bytes.HasPrefix(line, []byte(`{"type":"error"`)):
			s.Failed++
		default:
			continue // statistics
		}
		s.Requests++
		if _, err := w.Write(line); err != nil {
			return s, err
		}
	}
	return s, errors.Join(w.Flush(), out.Sync())
}

// completionTokens finds the usage at the end of an echo worker's answer.
func completionTokens(line []byte) (n int64) {
	const name = `"completion_tokens":`
	for _, c := range line[bytes.LastIndex(line, []byte(name))+len(name):] {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + int64(c-'0')
	}
	return n
}

func (e *echoLoop) stop() {
	if e.requests != nil {
		e.requests.Close()
	}
	if e.child != nil {
		e.child.stop()
	}
	if e.pipe != nil {
		e.pipe.Close()
	}
}
