// Package echo is the rehearsal engine: a worker without a model, which answers each chat or completion with the text of its last
// message or prompt.
package echo

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/engine/protocol"
)

// Command is the hidden command under which stoker's own binary is its rehearsal worker.
const Command = "echo-worker"

// Main is that worker, if this process was started as one: it serves until its requests end, and returns the exit code.
func Main() (ran bool, code int) {
	if len(os.Args) != 2 || os.Args[1] != Command {
		return false, 0
	}
	if err := Run(os.NewFile(3, "requests"), os.NewFile(4, "replies")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return true, 1
	}
	return true, 0
}

// sequences is the batch size that the rehearsal engine reports, that of vLLM's LLM class on most GPUs.
const sequences = 256

// engine speaks the worker protocol.
type engine struct {
	delay     time.Duration
	loadDelay time.Duration
	failEvery int64
	crashOn   string
	hangOn    string
	model     string
	served    []string

	choices map[string]int // how many answers a request gets that does not say, by the id of its defaults

	out  *protocol.Writer
	ctx  context.Context // ends when the requests do
	work sync.WaitGroup  // delayed answers and statistics

	slots   chan struct{} // taken by requests that are being answered
	waiting atomic.Int64
	hung    atomic.Bool

	mu    sync.Mutex
	stats struct{ prompt, generated, steps int64 }
}

// Run serves requests and writes replies until the requests end or it is told to stop. The error is also what the
// worker could not start with.
func Run(requests io.Reader, replies io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	e := &engine{out: protocol.NewWriter(replies), ctx: ctx, slots: make(chan struct{}, sequences), choices: map[string]int{}}
	defer e.out.Close()
	defer e.work.Wait()
	defer cancel()
	e.send(fmt.Appendf(nil, `{"type":"hello","protocol":%d,"engine":"echo","version":"1","pid":%d,"tested":true}`, protocol.Version, os.Getpid()))
	in := protocol.NewReader(requests)
	for {
		lines, err := in.Lines()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read requests: %w", err)
		}
		for _, line := range lines {
			if stop, err := e.handle(line); stop || err != nil {
				return err
			}
		}
	}
}

type request struct {
	Type  string         `json:"type"`
	Key   uint64         `json:"key"`
	URL   string         `json:"url"`
	Line  int64          `json:"line"`
	Seq   int64          `json:"seq"`
	Body  jsontext.Value `json:"body"`
	Model string         `json:"model"`
	Names []string       `json:"served_names"`
	Args  map[string]any `json:"args"`

	ID       string         `json:"id"` // of defaults
	Params   jsontext.Value `json:"params"`
	Defaults string         `json:"defaults"` // of a request

	choices int // that its defaults ask for
}

// lenient leaves it to the reader of a batch file to refuse what is odd: an engine must not die of it.
var lenient = json.JoinOptions(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))

func (e *engine) handle(line []byte) (stop bool, err error) {
	m, isRequest := parseRequest(line)
	if !isRequest {
		if err := json.Unmarshal(line, &m, lenient); err != nil {
			return true, e.fatal("internal", false, fmt.Errorf("read request: %w", err))
		}
	}
	switch m.Type {
	case "start":
		if err := e.start(&m); err != nil {
			return true, e.fatal("bad_argument", true, err)
		}
	case "ping":
		e.send(fmt.Appendf(nil, `{"type":"pong","seq":%d}`, m.Seq))
	case "stop":
		return true, nil
	case "defaults":
		var params struct {
			N int `json:"n"`
		}
		_ = json.Unmarshal(m.Params, &params, lenient) // the configuration checks them, and echo needs no other
		e.choices[m.ID] = params.N
	case "request":
		m.choices = e.choices[m.Defaults]
		e.accept(&m)
	}
	return false, nil
}

// parseRequest picks a request apart without a JSON decoder, if it is written as the daemon does. Its body is the rest,
// whatever that is.
func parseRequest(line []byte) (m request, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(protocol.RequestPrefix))
	if !ok {
		return m, false
	}
	key, rest, _ := bytes.Cut(rest, []byte(`,"url":"`))
	url, rest, _ := bytes.Cut(rest, []byte(`","form":"`))
	_, rest, _ = bytes.Cut(rest, []byte(`","line":`)) // the echo takes both forms as they are
	members, body, ok := bytes.Cut(rest, []byte(`,"body":`))
	number, defaults, _ := bytes.Cut(members, []byte(`,"defaults":`))
	if !ok || bytes.IndexByte(url, '\\') >= 0 || bytes.IndexByte(defaults, '\\') >= 0 || !bytes.HasSuffix(body, []byte("}")) {
		return m, false
	}
	k, err1 := strconv.ParseUint(string(key), 10, 64)
	n, err2 := strconv.ParseInt(string(number), 10, 64)
	return request{
		Type: "request", Key: k, URL: string(url), Line: n, Body: body[:len(body)-1], Defaults: string(bytes.Trim(defaults, `"`)),
	}, err1 == nil && err2 == nil
}

// send queues a reply.
func (e *engine) send(line []byte) {
	e.out.Send(func(b []byte) []byte { return append(append(b, line...), '\n') })
}

func (e *engine) fatal(cause string, permanent bool, err error) error {
	quoted, _ := jsontext.AppendQuote(nil, err.Error())
	e.send(fmt.Appendf(nil, `{"type":"fatal","cause":%q,"permanent":%t,"message":%s}`, cause, permanent, quoted))
	return err
}

func (e *engine) start(m *request) error {
	e.model, e.served = m.Model, m.Names
	if e.model == "" {
		e.model = "echo"
	}
	for name, value := range m.Args {
		if err := e.set(name, value); err != nil {
			return err
		}
	}
	if e.loadDelay == 0 {
		e.ready()
		return nil
	}
	model, _ := jsontext.AppendQuote(nil, e.model)
	e.send(fmt.Appendf(nil, `{"type":"phase","phase":"loading","detail":%s}`, model))
	e.work.Go(func() {
		select {
		case <-time.After(e.loadDelay):
			e.ready()
		case <-e.ctx.Done():
		}
	})
	return nil
}

func (e *engine) ready() {
	model, _ := jsontext.AppendQuote(nil, e.model)
	e.send(fmt.Appendf(nil, `{"type":"ready","model":%s,"max_model_len":1048576,"max_num_seqs":%d,"urls":["/v1/chat/completions","/v1/completions"],"load_seconds":%g}`,
		model, sequences, e.loadDelay.Seconds()))
	e.work.Go(e.reportStats)
}

func (e *engine) set(name string, value any) (err error) {
	text, isText := value.(string)
	number, isNumber := value.(float64)
	switch {
	case name == "delay" && isText:
		e.delay, err = time.ParseDuration(text)
	case name == "load_delay" && isText:
		e.loadDelay, err = time.ParseDuration(text)
	case name == "fail_every" && isNumber:
		e.failEvery = int64(number)
	case name == "crash_on" && isText:
		e.crashOn = text
	case name == "hang_on" && isText:
		e.hangOn = text
	default:
		err = fmt.Errorf("unknown or ill-typed argument %s of the echo engine", name)
	}
	return err
}

// reportStats sends statistics each second. A delayed answer counts as work, as it would in an engine that generates
// tokens all the time.
func (e *engine) reportStats() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-tick.C:
		}
		running := len(e.slots)
		e.mu.Lock()
		if running > 0 && !e.hung.Load() {
			e.stats.steps++
		}
		s := e.stats
		e.mu.Unlock()
		e.send(fmt.Appendf(nil, `{"type":"stats","running":%d,"waiting":%d,"kv_cache":0,"prompt_tokens":%d,"generation_tokens":%d,"steps":%d}`,
			running, e.waiting.Load(), s.prompt, s.generated, s.steps))
	}
}

// accept answers at once without a delay, else when the delay has passed, as many at a time as the batch size.
func (e *engine) accept(m *request) {
	if e.delay == 0 {
		e.answer(m)
		return
	}
	e.waiting.Add(1)
	e.work.Go(func() {
		select {
		case e.slots <- struct{}{}:
		case <-e.ctx.Done():
			return
		}
		e.waiting.Add(-1)
		defer func() { <-e.slots }()
		select {
		case <-time.After(e.delay):
			e.answer(m)
		case <-e.ctx.Done():
		}
	})
}

type body struct {
	Model    string         `json:"model"`
	Prompt   jsontext.Value `json:"prompt"`
	N        int            `json:"n"`
	Messages []struct {
		Content jsontext.Value `json:"content"`
	} `json:"messages"`
}

// maxChoices bounds the answers to one request, as vLLM does (VLLM_MAX_N_SEQUENCES).
const maxChoices = 16384

func (e *engine) answer(m *request) {
	var b body
	if err := json.Unmarshal(m.Body, &b, lenient); err != nil {
		e.refuse(m.Key, 400, "BadRequestError", err.Error())
		return
	}
	switch {
	case e.crashOn != "" && b.contains(e.crashOn):
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case e.hangOn != "" && b.contains(e.hangOn):
		e.hung.Store(true)
	}
	b.N = cmp.Or(b.N, m.choices)
	if e.hung.Load() {
		return // a hung engine answers nothing any more, but its pings
	}
	switch {
	case e.failEvery > 0 && m.Line%e.failEvery == 0:
		e.refuse(m.Key, 500, "InternalServerError", fmt.Sprintf("line %d fails, because fail_every is %d", m.Line, e.failEvery))
	case b.Model != "" && !e.serves(b.Model):
		e.refuse(m.Key, 404, "NotFoundError", fmt.Sprintf("The model `%s` does not exist.", b.Model))
	case b.N > maxChoices:
		e.refuse(m.Key, 400, "BadRequestError", fmt.Sprintf("n must be at most %d, got %d", maxChoices, b.N))
	case m.URL == "/v1/chat/completions":
		e.reply(m.Key, "chat.completion", `"message":{"role":"assistant","content":`, "}", b.text(), b.N)
	case m.URL == "/v1/completions":
		e.reply(m.Key, "text_completion", `"text":`, "", b.text(), b.N)
	default:
		e.refuse(m.Key, 400, "BadRequestError", "the echo engine does not serve "+m.URL)
	}
}

// contains reports whether the prompt or one of the messages contains a text.
func (b *body) contains(s string) bool {
	for _, m := range b.Messages {
		if strings.Contains(plainText(m.Content), s) {
			return true
		}
	}
	return strings.Contains(plainText(b.Prompt), s)
}

// text is the last message's or the prompt's.
func (b *body) text() string {
	if n := len(b.Messages); n > 0 {
		return plainText(b.Messages[n-1].Content)
	}
	return plainText(b.Prompt)
}

// plainText is a string, or the text of the parts that a message's content is made of; anything else stays JSON.
func plainText(value jsontext.Value) string {
	switch value.Kind() {
	case '"':
		if text, err := jsontext.AppendUnquote(nil, value); err == nil {
			return string(text)
		}
	case '[':
		var parts []struct {
			Text *string `json:"text"`
		}
		if json.Unmarshal(value, &parts, lenient) != nil || len(parts) == 0 {
			break
		}
		var text strings.Builder
		for _, p := range parts {
			if p.Text != nil {
				text.WriteString(*p.Text)
			}
		}
		return text.String()
	}
	return string(value)
}

func (e *engine) serves(model string) bool {
	for _, name := range e.served {
		if name == "*" || name == model {
			return true
		}
	}
	return model == e.model
}

func (e *engine) refuse(key uint64, status int, kind, message string) {
	quoted, _ := jsontext.AppendQuote(nil, message)
	e.send(fmt.Appendf(nil, `{"type":"error","key":%d,"status":%d,"body":{"error":{"message":%s,"type":%q,"param":null,"code":%d}}}`,
		key, status, quoted, kind, status))
}

func (e *engine) reply(key uint64, object, open, end, text string, n int) {
	var words int64
	for range strings.FieldsSeq(text) {
		words++
	}
	n = max(n, 1)
	b := make([]byte, 0, 512+n*len(text))
	b = append(b, `{"type":"result","key":`...)
	b = strconv.AppendUint(b, key, 10)
	b = append(b, `,"status":200,"body":{"id":"echo-`...)
	b = strconv.AppendUint(b, key, 10)
	b = append(b, `","object":"`...)
	b = append(b, object...)
	b = append(b, `","created":`...)
	b = strconv.AppendInt(b, time.Now().Unix(), 10)
	b = append(b, `,"model":`...)
	b, _ = jsontext.AppendQuote(b, e.model)
	b = append(b, `,"choices":[`...)
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"index":`...)
		b = strconv.AppendInt(b, int64(i), 10)
		b = append(b, ',')
		b = append(b, open...)
		b, _ = jsontext.AppendQuote(b, text)
		b = append(b, end...)
		b = append(b, `,"finish_reason":"stop"}`...)
	}
	b = append(b, `],"usage":{"prompt_tokens":`...)
	b = strconv.AppendInt(b, words, 10)
	b = append(b, `,"completion_tokens":`...)
	b = strconv.AppendInt(b, words*int64(n), 10)
	b = append(b, `,"total_tokens":`...)
	b = strconv.AppendInt(b, words*int64(n+1), 10)
	b = append(b, "}}}"...)
	e.mu.Lock()
	e.stats.prompt += words
	e.stats.generated += words * int64(n)
	e.stats.steps++
	e.mu.Unlock()
	e.send(b)
}
