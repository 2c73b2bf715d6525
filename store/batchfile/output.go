package batchfile

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// RequestID is the id of a result line: batch_req_<ulid>_<line>, for a batch id batch_<ulid>.
func RequestID(batchID string, line int64) string {
	id := make([]byte, 0, 64)
	id = append(id, "batch_req_"...)
	id = append(id, strings.TrimPrefix(batchID, "batch_")...)
	id = append(id, '_')
	return string(strconv.AppendInt(id, line, 10))
}

// Encoder writes output lines. Reused from answer to answer, by one goroutine, it allocates almost nothing. Its zero
// value is ready.
type Encoder struct {
	answers answerReader
}

// AppendOutput appends to dst the line of NAME.output.jsonl for an answer, without newline. body is the engine's
// response: in the OpenAI form it is spliced in as it is. The error, which leaves dst as it was, means that body is not
// one JSON object, or holds no choice for a line of the simple form.
func (e *Encoder) AppendOutput(dst []byte, req *Request, id, requestID string, body []byte) ([]byte, Info, error) {
	body, err := onOneLine(body)
	if err != nil {
		return dst, Info{}, fmt.Errorf("answer to line %d: response body: %w", req.Line, err)
	}
	a, err := e.answers.read(body)
	if err != nil {
		return dst, Info{}, fmt.Errorf("answer to line %d: %w", req.Line, err)
	}
	if req.Form == Simple {
		if len(a.texts) == 0 {
			return dst, Info{}, fmt.Errorf("answer to line %d: response body has no choices", req.Line)
		}
		return appendSimple(dst, &req.Ref, &a), a.info, nil
	}
	if !canBeNested(body) {
		return dst, Info{}, fmt.Errorf("answer to line %d: response body: %w", req.Line, errTooDeep)
	}
	dst = append(dst, `{"id":`...)
	dst = appendString(dst, id)
	dst = appendCustomID(dst, &req.Ref)
	dst = append(dst, `,"response":`...)
	dst = appendResponse(dst, 200, requestID, body)
	return append(dst, `,"error":null}`...), a.info, nil
}

func appendSimple(dst []byte, ref *Ref, a *answer) []byte {
	dst = append(dst, '{')
	dst = appendCustomID(dst, ref)
	dst = append(dst, `,"response":`...)
	dst = append(dst, a.texts[0]...)
	dst = append(dst, `,"finish_reason":`...)
	dst = appendOrNull(dst, a.finish)
	dst = append(dst, `,"usage":`...)
	dst = appendOrNull(dst, a.usage)
	if a.message != nil {
		dst = append(dst, `,"message":`...)
		dst = append(dst, a.message...)
	}
	if len(a.texts) > 1 {
		dst = append(dst, `,"responses":[`...)
		dst = append(dst, bytes.Join(a.texts, []byte{','})...)
		dst = append(dst, ']')
	}
	return append(appendMetadata(dst, ref), '}')
}

// maxNesting is how deep the JSON library reads: of a result line, too, in which a body lies two levels deeper.
const maxNesting = 10000

var errTooDeep = errors.New("nested too deep for a result line")

// canBeNested reports whether a valid body can still be read as a part of a result line.
func canBeNested(body []byte) bool {
	if bytes.Count(body, []byte{'{'})+bytes.Count(body, []byte{'['}) <= maxNesting-2 {
		return true
	}
	return jsontext.Value(slices.Concat([]byte("[["), body, []byte("]]"))).IsValid(jsontext.AllowDuplicateNames(true))
}

func appendResponse(dst []byte, status int, requestID string, body []byte) []byte {
	dst = append(dst, `{"status_code":`...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, `,"request_id":`...)
	dst = appendString(dst, requestID)
	dst = append(dst, `,"body":`...)
	dst = append(dst, body...)
	return append(dst, '}')
}

// appendCustomID appends the member that both forms have, behind a comma unless it is the first one.
func appendCustomID(dst []byte, ref *Ref) []byte {
	if dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(dst, `"custom_id":`...)
	if !ref.HasID {
		return append(dst, "null"...)
	}
	return appendString(dst, ref.CustomID)
}

func appendMetadata(dst []byte, ref *Ref) []byte {
	metadata, err := onOneLine(ref.Metadata)
	if metadata == nil || err != nil { // an error cannot be: the line it stood in was read
		return dst
	}
	return append(append(dst, `,"metadata":`...), metadata...)
}

func appendOrNull(dst, raw []byte) []byte {
	if raw == nil {
		return append(dst, "null"...)
	}
	return append(dst, raw...)
}

// appendString appends s quoted. What is not UTF-8 in it becomes U+FFFD, which is all that AppendQuote's error says.
func appendString(dst []byte, s string) []byte {
	dst, _ = jsontext.AppendQuote(dst, s)
	return dst
}

// onOneLine returns raw JSON without line breaks between its tokens. Some readers take a lone CR for one, too.
func onOneLine(raw []byte) ([]byte, error) {
	if bytes.IndexByte(raw, '\n') < 0 && bytes.IndexByte(raw, '\r') < 0 {
		return raw, nil
	}
	v := jsontext.Value(raw).Clone()
	err := v.Compact()
	return v, err
}
