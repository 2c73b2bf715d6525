package batchfile

import (
	"bytes"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"
)

// cursor walks one JSON text member by member without copying it: jsontext reads a bytes.Buffer in place. By default it
// is strict: a repeated member name, at any depth, and text that is not UTF-8 are errors.
//
// A text that is known to be valid is walked by a scanner instead, which is several times as fast as token by token.
type cursor struct {
	text    []byte
	trusted bool
	scan    scanner // of a trusted text
	buf     bytes.Buffer
	dec     jsontext.Decoder // of any other
	name    []byte           // an unescaped member name
}

// value is a raw JSON value and where it stands in its text.
type value struct {
	raw []byte
	at  int
}

func (v value) kind() jsontext.Kind { return jsontext.Value(v.raw).Kind() }

// given reports whether the value is there and not null.
func (v value) given() bool { return v.raw != nil && v.kind() != jsontext.KindNull }

func (c *cursor) reset(text []byte, opts ...jsontext.Options) {
	c.text, c.trusted = text, false
	c.buf = *bytes.NewBuffer(text)
	c.dec.Reset(&c.buf, opts...)
}

// trust begins a text that is known to be one JSON object, strictly.
func (c *cursor) trust(text []byte) {
	c.text, c.trusted = text, true
	c.scan = scanner{text: text}
}

// offset is where the token or value ends that was read last.
func (c *cursor) offset() int {
	if c.trusted {
		return c.scan.at
	}
	return int(c.dec.InputOffset())
}

// kind is that of the next value or token, KindInvalid if there is none.
func (c *cursor) kind() jsontext.Kind {
	if c.trusted {
		return c.scan.kind()
	}
	return c.dec.PeekKind()
}

// value reads the next value whole.
func (c *cursor) value() (value, error) {
	if c.trusted {
		start := c.scan.next()
		c.scan.skip()
		return value{raw: c.text[start:c.scan.at], at: start}, nil
	}
	raw, err := c.dec.ReadValue()
	return value{raw: raw, at: c.offset() - len(raw)}, err
}

func (c *cursor) skip() error {
	if c.trusted {
		c.scan.skip()
		return nil
	}
	return c.dec.SkipValue()
}

// token reads the begin or the end of an object or array.
func (c *cursor) token() error {
	if c.trusted {
		c.scan.token()
		return nil
	}
	_, err := c.dec.ReadToken()
	return err
}

// object walks the object that comes next; visit must read each member's value. The name is valid until then. The error
// is errNotObject, and nothing is read, if another kind of value comes next.
func (c *cursor) object(visit func(name []byte) error) (value, error) {
	start, err := c.open(jsontext.KindBeginObject)
	if err != nil {
		return value{}, err
	}
	for c.kind() != jsontext.KindEndObject {
		name, err := c.memberName()
		if err != nil {
			return value{}, err
		}
		if err := visit(name); err != nil {
			return value{}, err
		}
	}
	return c.close(start)
}

// array walks the array that comes next; visit must read each element.
func (c *cursor) array(visit func() error) (value, error) {
	start, err := c.open(jsontext.KindBeginArray)
	if err != nil {
		return value{}, err
	}
	for kind := c.kind(); kind != jsontext.KindEndArray && kind != jsontext.KindInvalid; kind = c.kind() {
		if err := visit(); err != nil {
			return value{}, err
		}
	}
	return c.close(start)
}

// open reads the begin of an object or array and returns where it stands.
func (c *cursor) open(kind jsontext.Kind) (start int, err error) {
	if next := c.kind(); next != kind && next != jsontext.KindInvalid {
		return 0, fmt.Errorf("%w, not %s", errNotObject, kindName(next))
	}
	err = c.token()
	return c.offset() - 1, err
}

// close reads the end of the object or array that began at start.
func (c *cursor) close(start int) (value, error) {
	if err := c.token(); err != nil {
		return value{}, err
	}
	return value{raw: c.text[start:c.offset()], at: start}, nil
}

// end returns errTrailingData unless only white space is left.
func (c *cursor) end() error {
	if c.trusted {
		return nil
	}
	if c.dec.PeekKind() == jsontext.KindInvalid {
		if _, err := c.dec.ReadToken(); err == io.EOF {
			return nil
		}
	}
	return errTrailingData
}

func (c *cursor) memberName() ([]byte, error) {
	v, err := c.value()
	if err != nil {
		return nil, err
	}
	if len(v.raw) < 2 || v.raw[0] != '"' { // the decoder never gets here
		return nil, errNotJSON
	}
	if bytes.IndexByte(v.raw, '\\') < 0 {
		return v.raw[1 : len(v.raw)-1], nil
	}
	c.name, err = jsontext.AppendUnquote(c.name[:0], v.raw)
	return c.name, err
}

// unquote returns what a raw JSON string holds, and "" for any other value.
func unquote(raw []byte) string {
	if len(raw) < 2 || raw[0] != '"' {
		return ""
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	b, _ := jsontext.AppendUnquote(nil, raw) // raw was read by a cursor: it is a valid string
	return string(b)
}
