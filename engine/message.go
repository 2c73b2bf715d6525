package engine

import (
	"bytes"
	"fmt"
	"strconv"
	"syscall"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/engine/protocol"
)

// startMessage is the first message to a worker.
type startMessage struct {
	Type        string         `json:"type"`
	Protocol    int            `json:"protocol"`
	Model       string         `json:"model"`
	ServedNames []string       `json:"served_names"`
	Args        map[string]any `json:"args"`
}

// typeGarbage stands in for a line that is no message; no worker sends it.
const typeGarbage = "garbage"

// memoryCause is that of a worker that gives up because there is too little memory.
const memoryCause = "gpu_memory"

// message is anything that a worker sends.
type message struct {
	Type string `json:"type"`

	// hello, ready
	Protocol    int     `json:"protocol"`
	Version     string  `json:"version"`
	Tested      *bool   `json:"tested"`
	Model       string  `json:"model"`
	MaxModelLen int     `json:"max_model_len"`
	MaxNumSeqs  int     `json:"max_num_seqs"`
	KVTokens    int64   `json:"kv_cache_tokens"`
	LoadSeconds float64 `json:"load_seconds"`

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

	Memory *Shortage      `json:"memory"`
	Signal syscall.Signal `json:"signal"` // that killed an engine process
}

// What begins the answers, which go by the thousand: they are picked apart without a JSON decoder.
const (
	resultPrefix = `{"type":"result","key":`
	errorPrefix  = `{"type":"error","key":`
)

// parseMessage decodes one line of a worker that parseAnswer does not know.
func parseMessage(line []byte) (message, error) {
	var m message
	err := json.Unmarshal(line, &m)
	switch {
	case err == nil && m.Type == "":
		return m, fmt.Errorf("worker sent %.80q: no type", line)
	case err == nil && m.Type == typeGarbage:
		return message{}, nil
	case err == nil:
		return m, nil
	case isUnknown(line):
		return message{}, nil
	}
	return m, fmt.Errorf("worker sent %.80q: %w", line, err)
}

// isUnknown reports whether a line is a message of a type that this version does not know, whose members may be
// anything.
func isUnknown(line []byte) bool {
	var m struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(line, &m) != nil {
		return false
	}
	switch m.Type {
	case "", "hello", "phase", "ready", "result", "error", "stats", "pong", "fatal":
		return false
	}
	return true
}

// parseAnswer reads PREFIX KEY,"status":STATUS,"body":BODY}, as PROTOCOL.md has workers write it. The body aliases the
// line. Whether it is JSON is for who reads it to find out: an answer that cannot be read costs its request, not the worker.
func parseAnswer(line []byte) (Answer, bool) {
	rest, isResult := bytes.CutPrefix(line, []byte(resultPrefix))
	if !isResult {
		var isError bool
		if rest, isError = bytes.CutPrefix(line, []byte(errorPrefix)); !isError {
			return Answer{}, false
		}
	}
	key, rest, ok := bytes.Cut(rest, []byte(`,"status":`))
	if !ok {
		return Answer{}, false
	}
	status, body, ok := bytes.Cut(rest, []byte(`,"body":`))
	if !ok || !bytes.HasSuffix(body, []byte("}")) {
		return Answer{}, false
	}
	k, err1 := strconv.ParseUint(string(key), 10, 64)
	s, err2 := strconv.ParseUint(string(status), 10, 16)
	if err1 != nil || err2 != nil {
		return Answer{}, false
	}
	return Answer{Key: Key(k), Status: int(s), Body: body[:len(body)-1]}, true
}

// appendRequest writes a request message. The body goes as the user wrote it.
func appendRequest(dst []byte, r Request) []byte {
	dst = append(dst, protocol.RequestPrefix...)
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
