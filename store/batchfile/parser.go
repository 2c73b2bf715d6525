package batchfile

import (
	"bytes"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// Parser reads lines. Its zero value is ready; it is reused from line to line, by one goroutine.
type Parser struct {
	in  cursor
	env envelope // of the line that is read
}

// Parse judges one line by the rules of the batch file. The request's slices alias text. The error is always a
// *LineError: it costs this line only, and carries as much of Ref as could be read.
func (p *Parser) Parse(text []byte, number int64) (Request, error) {
	p.in.reset(text)
	return p.parse(text, number)
}

// ParseAgain is Parse of a line that Parse found valid before: it is not checked again, which takes most of the time.
func (p *Parser) ParseAgain(text []byte, number int64) (Request, error) {
	p.in.trust(text)
	return p.parse(text, number)
}

func (p *Parser) parse(text []byte, number int64) (Request, error) {
	env := &p.env
	*env = envelope{line: text}
	if err := p.read(env); err != nil {
		fault := syntaxError(text, err, p.in.offset())
		fault.Ref = p.salvage(text, number)
		return Request{}, fault
	}
	ref, fault := env.ref(number)
	var req Request
	if fault == nil {
		fault = checkDepth(text)
	}
	if fault == nil {
		req, fault = env.request()
	}
	if fault != nil {
		fault.Ref = ref
		return Request{}, fault
	}
	req.Ref = ref
	return req, nil
}

// read walks the whole line.
func (p *Parser) read(env *envelope) error {
	if err := p.walk(env); err != nil {
		return err
	}
	return p.in.end()
}

// salvage reads what it can of a line that is not valid.
func (p *Parser) salvage(text []byte, number int64) Ref {
	p.in.reset(text, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
	var env envelope
	_ = p.walk(&env) // that the line is broken is known
	ref := Ref{Line: number, Form: env.form()}
	if jsontext.Value(env.customID.raw).IsValid() {
		ref.CustomID, ref.HasID = customID(env.customID)
	}
	if jsontext.Value(env.metadata.raw).IsValid() {
		ref.Metadata = env.echo()
	}
	return ref
}

// envelope is what the rules look at: a line's top-level members and those of its body.
type envelope struct {
	line                                 []byte
	openAI, simple                       bool // members seen that only this form has
	customID, method, url, metadata, raw value
	body                                 value
	top, inBody                          params
}

func (p *Parser) walk(env *envelope) error {
	_, err := p.in.object(func(name []byte) error { return p.member(env, name) })
	return err
}

// member reads one top-level member. What tells the form is noted before its value is read, so that it is known of
// lines that are cut off, too.
func (p *Parser) member(env *envelope, name []byte) error {
	var dst *value
	switch string(name) {
	case "body":
		env.openAI = true
		return p.body(env)
	case "method":
		env.openAI, dst = true, &env.method
	case "url":
		env.openAI, dst = true, &env.url
	case "custom_id":
		dst = &env.customID
	case "metadata":
		dst = &env.metadata
	case "raw":
		dst = &env.raw
	default:
		dst = env.top.slot(name)
		env.simple = env.simple || dst == &env.top[prompt] || dst == &env.top[messages]
	}
	return p.store(dst)
}

func (p *Parser) body(env *envelope) (err error) {
	if p.in.kind() != jsontext.KindBeginObject {
		return p.store(&env.body)
	}
	env.body, err = p.in.object(func(name []byte) error { return p.store(env.inBody.slot(name)) })
	return err
}

// store reads the next value into dst unless that is nil or, in a line that repeats members, already set.
func (p *Parser) store(dst *value) error {
	v, err := p.in.value()
	if err == nil && dst != nil && dst.raw == nil {
		*dst = v
	}
	return err
}

func (e *envelope) form() Form {
	if e.simple && !e.openAI {
		return Simple
	}
	return OpenAI
}

// echo is the metadata that the result line repeats: none that its readers could not read.
func (e *envelope) echo() []byte {
	if !e.metadata.given() || checkDepth(e.metadata.raw) != nil {
		return nil
	}
	return e.metadata.raw
}

// ref reads what the result line will say of the request.
func (e *envelope) ref(number int64) (Ref, *LineError) {
	ref := Ref{Line: number, Form: e.form(), Metadata: e.echo()}
	if !e.customID.given() {
		ref.CustomID, ref.HasID = "line-"+strconv.FormatInt(number, 10), true
		return ref, nil
	}
	if ref.CustomID, ref.HasID = customID(e.customID); !ref.HasID {
		return ref, invalid(e.customID, "custom_id must be a string that is not empty, or an integer")
	}
	return ref, nil
}

// customID reads a string, or an integer as its text.
func customID(v value) (id string, ok bool) {
	switch v.kind() {
	case jsontext.KindString:
		id = unquote(v.raw)
	case jsontext.KindNumber:
		if !bytes.ContainsAny(v.raw, ".eE") {
			id = string(v.raw)
		}
	}
	return id, id != ""
}
