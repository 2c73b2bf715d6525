package batchfile

import (
	"bytes"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// ReadRef reads back of which request a line of an output or errors file is. customID is "" where the line has null.
// line is 0 where the line does not tell: a success of the simple form has neither line nor id. ok is false if it is no
// result line.
func ReadRef(resultLine []byte) (customID string, line int64, ok bool) {
	var (
		in       cursor
		id       value
		isResult bool
	)
	in.reset(resultLine)
	_, err := in.object(func(name []byte) error {
		v, err := in.value()
		switch string(name) {
		case "custom_id":
			customID, isResult = unquote(v.raw), true
		case "line":
			line = wholeNumber(v.raw)
		case "id":
			id = v
		}
		return err
	})
	if line == 0 {
		line = lineOfID(id.raw)
	}
	return customID, line, err == nil && isResult
}

// lineOfID returns the line number at the end of a RequestID, or 0.
func lineOfID(raw []byte) int64 {
	id := bytes.Trim(raw, `"`)
	if !bytes.HasPrefix(id, []byte("batch_req_")) {
		return 0
	}
	return wholeNumber(id[bytes.LastIndexByte(id, '_')+1:])
}

// ErrorSummary reads back an error line's code and message, as the simple form would give them.
func ErrorSummary(errorLine []byte) (code, message string) {
	var (
		in  cursor
		own errorBody
		res httpError
	)
	in.reset(errorLine)
	_, _ = in.object(func(name []byte) error {
		var err error
		switch object := in.kind() == jsontext.KindBeginObject; {
		case object && string(name) == "error":
			_, err = in.object(func(name []byte) error { return own.member(&in, name) })
		case object && string(name) == "response":
			_, err = in.object(func(name []byte) error { return res.member(&in, name) })
		default:
			err = in.skip()
		}
		return err
	})
	if res.status != 0 {
		return res.body.name(res.status), res.body.message
	}
	return own.code, own.message
}

// httpError is the response member of an HTTP-like error line.
type httpError struct {
	status int
	body   errorBody
}

func (h *httpError) member(in *cursor, name []byte) error {
	v, err := in.value()
	switch string(name) {
	case "status_code":
		status, _ := strconv.Atoi(string(v.raw))
		h.status = status
	case "body":
		h.body = readErrorBody(v.raw)
	}
	return err
}
