package batchfile

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"

	"github.com/go-json-experiment/json/jsontext"
)

// request judges a line that is well-formed JSON and makes the request of it; its Ref is left to the caller.
func (e *envelope) request() (Request, *LineError) {
	if e.form() == Simple {
		return e.simpleRequest()
	}
	return e.openAIRequest()
}

func (e *envelope) openAIRequest() (Request, *LineError) {
	if fault := e.checkBody(); fault != nil {
		return Request{}, fault
	}
	if e.method.given() && string(e.method.raw) != `"POST"` {
		return Request{}, invalid(e.method, "method must be POST, not %s", excerpt(e.method.raw))
	}
	url, fault := e.requestURL()
	if fault == nil {
		fault = e.inBody.check()
	}
	if fault != nil {
		return Request{}, fault
	}
	if !e.inBody.fit(url) {
		return Request{}, invalid(e.body, "the body of a request to %s needs %s", url, needs(url))
	}
	return Request{URL: url, Body: e.body.raw, Model: unquote(e.inBody[model].raw), MaxTokens: e.inBody.answerLimit()}, nil
}

// maxDepth is how deep the values of a line may lie in each other. Python's readers, the worker's among them, give up at
// about 1,000 levels, and the worker with the message that holds such a body.
const maxDepth = 500

// checkDepth refuses a line, which is valid JSON, at the value that lies too deep.
func checkDepth(text []byte) *LineError {
	if bytes.Count(text, []byte{'['})+bytes.Count(text, []byte{'{'}) <= maxDepth {
		return nil
	}
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case quoted:
		case c == '[', c == '{':
			if depth++; depth > maxDepth {
				return invalid(value{raw: text[i:], at: i}, "nested more than %d levels deep", maxDepth)
			}
		case c == ']', c == '}':
			depth--
		}
	}
	return nil
}

// checkBody refuses lines that mix the forms, and bodies that are none.
func (e *envelope) checkBody() *LineError {
	stray := later(e.top[prompt], e.top[messages])
	switch {
	case e.simple && e.body.raw != nil:
		return invalid(stray, "prompt or messages beside a body: they belong into it")
	case e.simple:
		return invalid(stray, "prompt or messages beside url or method: they belong into a body")
	case e.body.raw == nil && e.openAI:
		return invalid(value{}, "no body")
	case e.body.raw == nil:
		return invalid(value{}, "neither body nor prompt nor messages")
	case e.body.kind() != jsontext.KindBeginObject:
		return invalid(e.body, "body must be an object, not %s", kindName(e.body.kind()))
	}
	return nil
}

func (e *envelope) requestURL() (string, *LineError) {
	if !e.url.given() {
		if url := e.inBody.guessURL(); url != "" {
			return url, nil
		}
		return "", invalid(e.body, "the body has neither messages, prompt nor input, and no url says what it is")
	}
	switch url := unquote(e.url.raw); url {
	case ChatCompletions, Completions, Embeddings, Responses, Score, Rerank:
		return url, nil
	}
	return "", invalid(e.url, "unknown url %s", excerpt(e.url.raw))
}

func (e *envelope) simpleRequest() (Request, *LineError) {
	fault := e.top.check()
	if fault == nil {
		fault = e.checkRaw()
	}
	if fault == nil {
		fault = e.checkContent()
	}
	if fault != nil {
		return Request{}, fault
	}
	req := Request{URL: ChatCompletions, Body: e.line, Model: unquote(e.top[model].raw), MaxTokens: e.top.answerLimit()}
	if e.isRaw() {
		req.URL = Completions
	}
	return req, nil
}

func (e *envelope) isRaw() bool { return e.raw.kind() == jsontext.KindTrue }

func (e *envelope) checkRaw() *LineError {
	switch kind := e.raw.kind(); {
	case !e.raw.given(), kind == jsontext.KindFalse:
		return nil
	case kind != jsontext.KindTrue:
		return invalid(e.raw, "raw must be true or false, not %s", kindName(kind))
	case e.top[messages].raw != nil:
		return invalid(e.raw, "raw goes with prompt, not with messages")
	}
	return nil
}

// checkContent judges the prompt or the messages of a simple line.
func (e *envelope) checkContent() *LineError {
	if m := e.top[messages]; m.raw != nil && !isFilledArray(m) {
		return invalid(m, "messages must be an array that is not empty")
	}
	p := e.top[prompt]
	switch {
	case p.raw == nil, p.kind() == jsontext.KindString, e.isRaw() && isFilledArray(p):
		return nil
	case e.isRaw():
		return invalid(p, "a raw prompt must be a string or an array of tokens, not %s", kindName(p.kind()))
	}
	return invalid(p, "prompt must be a string, not %s", kindName(p.kind()))
}

func isFilledArray(v value) bool {
	return v.kind() == jsontext.KindBeginArray && !isBlank(v.raw[1:len(v.raw)-1])
}

// invalid makes the error of a line that is JSON but no request, at v if that is there.
func invalid(v value, format string, args ...any) *LineError {
	e := &LineError{Code: CodeInvalidRequest, Message: fmt.Sprintf(format, args...)}
	if v.raw != nil {
		e.Column = v.at + 1
	}
	return e
}

// excerpt shortens a raw value for a message, and takes out what a terminal would obey.
func excerpt(raw []byte) string {
	const most = 60 // bytes
	s := string(raw)
	if len(raw) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}

func kindName(k jsontext.Kind) string {
	switch k {
	case jsontext.KindNull:
		return "null"
	case jsontext.KindFalse, jsontext.KindTrue:
		return "a boolean"
	case jsontext.KindString:
		return "a string"
	case jsontext.KindNumber:
		return "a number"
	case jsontext.KindBeginArray:
		return "an array"
	}
	return "an object"
}
