package batchfile

import (
	"bytes"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// AppendError appends to dst the line of NAME.errors.jsonl for a failed request, without newline.
func AppendError(dst []byte, ref *Ref, id, requestID string, f Failure) []byte {
	dst = append(dst, '{')
	if ref.Form == OpenAI {
		dst = append(dst, `"id":`...)
		dst = appendString(dst, id)
	}
	dst = appendCustomID(dst, ref)
	dst = append(dst, `,"line":`...)
	dst = strconv.AppendInt(dst, ref.Line, 10)
	dst = append(dst, `,"response":`...)
	switch {
	case ref.Form == Simple:
		dst = appendSimpleError(dst, f)
		dst = appendMetadata(dst, ref)
	case f.Status != 0:
		dst = appendResponse(dst, f.Status, requestID, f.body())
		dst = append(dst, `,"error":null`...)
	default:
		dst = append(dst, `null,"error":`...)
		dst = append(appendCodeAndMessage(dst, f.Code, f.Message), '}')
	}
	return append(dst, '}')
}

// appendSimpleError appends response and error; an HTTP-like failure is told by what its body says.
func appendSimpleError(dst []byte, f Failure) []byte {
	dst = append(dst, `null,"error":`...)
	if f.Status == 0 {
		dst = appendCodeAndMessage(dst, f.Code, f.Message)
		return append(dst, `,"status":null}`...)
	}
	e := readErrorBody(f.body())
	dst = appendCodeAndMessage(dst, e.name(f.Status), e.message)
	dst = append(dst, `,"status":`...)
	dst = strconv.AppendInt(dst, int64(f.Status), 10)
	return append(dst, '}')
}

func appendCodeAndMessage(dst []byte, code, message string) []byte {
	dst = append(dst, `{"code":`...)
	dst = appendString(dst, code)
	dst = append(dst, `,"message":`...)
	return appendString(dst, message)
}

// body returns the engine's error object on one line, or makes one if the engine gave none that can be used.
func (f *Failure) body() []byte {
	body, err := onOneLine(bytes.TrimSpace(f.Body))
	if err == nil && jsontext.Value(body).IsValid() && jsontext.Value(body).Kind() == jsontext.KindBeginObject && canBeNested(body) {
		return body
	}
	kind := f.Code
	if kind == "" {
		kind = "server_error"
	}
	b := append([]byte(nil), `{"error":{"message":`...)
	b = appendString(b, f.Message)
	b = append(b, `,"type":`...)
	b = appendString(b, kind)
	b = append(b, `,"param":null,"code":`...)
	b = strconv.AppendInt(b, int64(f.Status), 10)
	return append(b, `}}`...)
}

// errorBody is what an error object says: {"error":{"message","type","param","code"}}.
type errorBody struct {
	code, kind, message string
}

// name is the code if that is a word, else the type, else the status: vLLM's codes are the status again.
func (e *errorBody) name(status int) string {
	switch {
	case e.code != "":
		return e.code
	case e.kind != "":
		return e.kind
	}
	return strconv.Itoa(status)
}

// readErrorBody reads an error object as far as it is one.
func readErrorBody(body []byte) (e errorBody) {
	var in cursor
	in.reset(body)
	_, _ = in.object(func(name []byte) error {
		if string(name) != "error" || in.kind() != jsontext.KindBeginObject {
			return in.skip()
		}
		_, err := in.object(func(name []byte) error { return e.member(&in, name) })
		return err
	})
	return e
}

func (e *errorBody) member(in *cursor, name []byte) error {
	v, err := in.value()
	switch string(name) {
	case "code":
		e.code = unquote(v.raw)
	case "type":
		e.kind = unquote(v.raw)
	case "message":
		e.message = unquote(v.raw)
	}
	return err
}
