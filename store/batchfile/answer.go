package batchfile

import (
	"fmt"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// answer is what the result lines and the books take from an engine's response body. Its slices alias the body.
type answer struct {
	info    Info
	texts   [][]byte // of all choices: raw JSON strings
	message []byte   // of the first choice, if it calls tools
	finish  []byte   // of the first choice
	usage   []byte
}

// choice is one of an answer's choices: a chat's message or a completion's text.
type choice struct {
	text, message, finish value
	calls                 bool
}

// answerReader walks response bodies of chats, completions, embeddings, scores and the Responses API alike.
type answerReader struct {
	in         cursor
	out        answer
	choices    int
	status     value // of the Responses API
	incomplete value // why the Responses API stopped early
}

// read walks one body. It may be called again, for the next one.
func (r *answerReader) read(body []byte) (answer, error) {
	r.out, r.choices, r.status, r.incomplete = answer{texts: r.out.texts[:0]}, 0, value{}, value{}
	r.in.reset(body)
	if _, err := r.in.object(r.member); err != nil {
		return answer{}, fmt.Errorf("response body: %w", err)
	}
	if err := r.in.end(); err != nil {
		return answer{}, fmt.Errorf("response body: %w", err)
	}
	r.out.info.FinishReason = r.finishReason()
	return r.out, nil
}

func (r *answerReader) member(name []byte) (err error) {
	switch kind := r.in.kind(); {
	case string(name) == "choices" && kind == jsontext.KindBeginArray:
		_, err = r.in.array(r.choice)
	case string(name) == "usage" && kind == jsontext.KindBeginObject:
		var usage value
		usage, err = r.in.object(r.count)
		r.out.usage = usage.raw
	case string(name) == "status":
		r.status, err = r.in.value()
	case string(name) == "incomplete_details" && kind == jsontext.KindBeginObject:
		_, err = r.in.object(r.incompleteDetail)
	default:
		err = r.in.skip()
	}
	return err
}

// count reads one member of usage; the Responses API has other names for the same counts.
func (r *answerReader) count(name []byte) error {
	v, err := r.in.value()
	if err != nil || v.kind() != jsontext.KindNumber {
		return err
	}
	switch string(name) {
	case "prompt_tokens", "input_tokens":
		r.out.info.PromptTokens = wholeNumber(v.raw)
	case "completion_tokens", "output_tokens":
		r.out.info.CompletionTokens = wholeNumber(v.raw)
	}
	return nil
}

// wholeNumber returns 0 for what is none: a count that an engine garbles costs the books, not the answer.
func wholeNumber(raw []byte) int64 {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (r *answerReader) incompleteDetail(name []byte) error {
	v, err := r.in.value()
	if string(name) == "reason" {
		r.incomplete = v
	}
	return err
}

func (r *answerReader) choice() error {
	if r.in.kind() != jsontext.KindBeginObject {
		return r.in.skip()
	}
	var c choice
	_, err := r.in.object(func(name []byte) error { return r.choiceMember(&c, name) })
	if err != nil {
		return err
	}
	if c.text.kind() != jsontext.KindString { // null beside tool calls
		c.text.raw = []byte(`""`)
	}
	r.out.texts = append(r.out.texts, c.text.raw)
	if r.choices++; r.choices == 1 {
		r.out.finish = c.finish.raw
		if c.calls {
			r.out.message = c.message.raw
		}
	}
	return nil
}

func (r *answerReader) choiceMember(c *choice, name []byte) (err error) {
	switch kind := r.in.kind(); {
	case string(name) == "message" && kind == jsontext.KindBeginObject:
		c.message, err = r.in.object(func(name []byte) error { return r.messageMember(c, name) })
	case string(name) == "text":
		c.text, err = r.in.value()
	case string(name) == "finish_reason":
		c.finish, err = r.in.value()
	default:
		err = r.in.skip()
	}
	return err
}

func (r *answerReader) messageMember(c *choice, name []byte) error {
	switch string(name) {
	case "content":
		v, err := r.in.value()
		c.text = v
		return err
	case "tool_calls":
		v, err := r.in.value()
		c.calls = err == nil && isFilledArray(v)
		return err
	}
	return r.in.skip()
}

// finishReason is the first choice's; what the Responses API says is put in the same words.
func (r *answerReader) finishReason() string {
	if r.choices > 0 {
		if string(r.out.finish) == `"stop"` {
			return "stop" // nearly all do: no string is made
		}
		return unquote(r.out.finish)
	}
	switch status := unquote(r.status.raw); status {
	case "completed":
		return "stop"
	case "incomplete":
		if reason := unquote(r.incomplete.raw); reason != "max_output_tokens" {
			return reason
		}
		return "length"
	default:
		return status
	}
}
