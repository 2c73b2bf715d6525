package engine

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ProtocolVersion is the version of PROTOCOL.md that this package speaks.
const ProtocolVersion = 1

// startMessage is the first message to a worker.
type startMessage struct {
	Type        string         `json:"type"`
	Protocol    int            `json:"protocol"`
	Model       string         `json:"model"`
	ServedNames []string       `json:"served_names"`
	Args        map[string]any `json:"args"`
}

// message is anything that a worker sends.
type message struct {
	Type string `json:"type"`

	// hello, ready
	Protocol    int      `json:"protocol"`
	Engine      string   `json:"engine"`
	Version     string   `json:"version"`
	PID         int      `json:"pid"`
	Tested      *bool    `json:"tested"`
	Model       string   `json:"model"`
	MaxModelLen int      `json:"max_model_len"`
	MaxNumSeqs  int      `json:"max_num_seqs"`
	KVTokens    int64    `json:"kv_cache_tokens"`
	LoadSeconds float64  `json:"load_seconds"`
	URLs        []string `json:"urls"`

	// phase
	Phase  string `json:"phase"`
	Detail string `json:"detail"`

	// result, error
	Key    Key            `json:"key"`
	Status int            `json:"status"`
	Body   jsontext.Value `json:"body"`

	// stats
	Running          int     `json:"running"`
	Waiting          int     `json:"waiting"`
	KVCache          float64 `json:"kv_cache"`
	PromptTokens     int64   `json:"prompt_tokens"`
	GenerationTokens int64   `json:"generation_tokens"`
	Steps            int64   `json:"steps"`

	// fatal
	Cause     string `json:"cause"`
	Permanent bool   `json:"permanent"`
	Message   string `json:"message"`
	Hint      string `json:"hint"`
}

// answerPrefixes begin the messages that come by the thousand, written so by workers: they are picked apart without a
// JSON decoder, and only the body is checked.
var answerPrefixes = [][]byte{[]byte(`{"type":"result","key":`), []byte(`{"type":"error","key":`)}

// parseMessage decodes one line of a worker. The body aliases the line.
func parseMessage(line []byte) (message, error) {
	for _, prefix := range answerPrefixes {
		if m, ok := parseAnswer(line, prefix); ok {
			return m, nil
		}
	}
	var m message
	if err := json.Unmarshal(line, &m, json.RejectUnknownMembers(false)); err != nil {
		return m, fmt.Errorf("worker sent %.80q: %w", line, err)
	}
	return m, nil
}

// parseAnswer reads PREFIX KEY,"status":STATUS,"body":BODY}.
func parseAnswer(line, prefix []byte) (message, bool) {
	rest, ok := bytes.CutPrefix(line, prefix)
	if !ok {
		return message{}, false
	}
	key, rest, ok := bytes.Cut(rest, []byte(`,"status":`))
	if !ok {
		return message{}, false
	}
	status, body, ok := bytes.Cut(rest, []byte(`,"body":`))
	if !ok || !bytes.HasSuffix(body, []byte("}")) {
		return message{}, false
	}
	k, err1 := strconv.ParseUint(string(key), 10, 64)
	s, err2 := strconv.Atoi(string(status))
	value := jsontext.Value(body[:len(body)-1])
	if err1 != nil || err2 != nil || !value.IsValid() {
		return message{}, false
	}
	return message{Type: "result", Key: Key(k), Status: s, Body: value}, true
}

// appendRequest writes a request message. The body goes as the user wrote it.
func appendRequest(dst []byte, r Request) []byte {
	dst = append(dst, `{"type":"request","key":`...)
	dst = strconv.AppendUint(dst, uint64(r.Key), 10)
	dst = append(dst, `,"url":`...)
	dst, _ = jsontext.AppendQuote(dst, r.URL)
	if r.Simple {
		dst = append(dst, `,"form":"simple"`...)
	} else {
		dst = append(dst, `,"form":"openai"`...)
	}
	dst = append(dst, `,"line":`...)
	dst = strconv.AppendInt(dst, r.Line, 10)
	if r.Defaults != nil {
		dst = append(dst, `,"defaults":`...)
		dst, _ = jsontext.AppendQuote(dst, r.Defaults.ID)
	}
	dst = append(dst, `,"body":`...)
	dst = append(dst, r.Body...)
	return append(dst, "}\n"...)
}

func appendDefaults(dst []byte, d *Defaults) []byte {
	dst = append(dst, `{"type":"defaults","id":`...)
	dst, _ = jsontext.AppendQuote(dst, d.ID)
	dst = append(dst, `,"params":`...)
	dst = append(dst, d.Params...)
	return append(dst, "}\n"...)
}

func appendCancel(dst []byte, keys []Key) []byte {
	dst = append(dst, `{"type":"cancel","keys":[`...)
	for i, k := range keys {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendUint(dst, uint64(k), 10)
	}
	return append(dst, "]}\n"...)
}

// lineReader reads lines of any length.
type lineReader struct {
	r   io.Reader
	buf []byte
	end int // of what was read
	pos int // of what was returned
}

// maxMessage bounds what a broken worker can make the daemon hold, in bytes.
const maxMessage = 1 << 30

// lines returns all complete lines that one read brought, without their ends. They are the caller's.
func (l *lineReader) lines() ([][]byte, error) {
	for {
		n, err := l.fill()
		if n == 0 && err != nil {
			return nil, err
		}
		last := bytes.LastIndexByte(l.buf[l.pos:l.end], '\n')
		if last < 0 {
			if l.end-l.pos > maxMessage {
				return nil, errors.New("worker sent a line that does not end")
			}
			continue
		}
		chunk := bytes.Clone(l.buf[l.pos : l.pos+last])
		l.pos += last + 1
		return bytes.Split(chunk, []byte{'\n'}), nil
	}
}

func (l *lineReader) fill() (int, error) {
	copy(l.buf, l.buf[l.pos:l.end])
	l.end -= l.pos
	l.pos = 0
	if l.end == len(l.buf) {
		l.buf = append(l.buf, make([]byte, max(1<<18, len(l.buf)))...)
	}
	n, err := l.r.Read(l.buf[l.end:])
	l.end += n
	return n, err
}
