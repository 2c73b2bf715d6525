package engine

import (
	"bytes"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

// parseReply reads any message of a worker. Answers are messages of type "result" then.
func parseReply(line []byte) (message, error) {
	if a, ok := parseAnswer(line); ok {
		return message{Type: "result", Key: a.Key, Status: a.Status, Body: a.Body}, nil
	}
	return parseMessage(line)
}

func TestParseReply(t *testing.T) {
	answer := func(key Key, status int, body string) message {
		return message{Type: "result", Key: key, Status: status, Body: jsontext.Value(body)}
	}
	for line, want := range map[string]message{
		`{"type":"result","key":7,"status":200,"body":{"a":1}}`:                answer(7, 200, `{"a":1}`),
		`{"type":"error","key":8,"status":400,"body":{"error":{}}}`:            answer(8, 400, `{"error":{}}`),
		`{"type":"result","key":7,"status":200,"body":{"a":",\"body\":"}}`:     answer(7, 200, `{"a":",\"body\":"}`),
		`{"type":"result", "key":7, "status":200, "body":{"a":1}}`:             answer(7, 200, `{"a":1}`),
		`{"status":200,"key":7,"body":{"a":1},"type":"result"}`:                answer(7, 200, `{"a":1}`),
		`{"type":"result", "key":7,"status":200,"body":{"a":1},"new":2}`:       answer(7, 200, `{"a":1}`),
		`{"type":"result","key":7,"status":200,"body":{"a":1},"new":2}`:        answer(7, 200, `{"a":1},"new":2`), // costs the request
		`{"type":"result","key":7,"status":200,"body":{"a":1,"a":2}}`:          answer(7, 200, `{"a":1,"a":2}`),
		`{"type":"result","key":7,"status":200,"body":{"a":"\ud800"}}`:         answer(7, 200, `{"a":"\ud800"}`),
		`{"type":"pong","seq":3}`:                                              {Type: "pong"},
		`{"type":"stats","running":3,"kv_cache":0.5,"news":[]}`:                {Type: "stats", Running: 3, KVCache: 0.5},
		`{"type":"fatal","cause":"internal","permanent":true,"message":"why"}`: {Type: "fatal", Cause: "internal", Permanent: true, Message: "why"},
		`{"type":"hello","protocol":1,"engine":[],"pid":"x","urls":7}`:         {Type: "hello", Protocol: 1}, // nobody reads these
		`{"type":"of the future","key":"text","status":[]}`:                    {},
		`{"type":"garbage","message":"no"}`:                                    {},
	} {
		got, err := parseReply([]byte(line))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v\n%s", line, err, diff)
		}
	}
	for _, line := range []string{
		``, `hello`, `{}`, `[]`, `{"type":7}`, `{"type":"stats","running":"x"}`, `{"type":"result","key":-7,"status":200,"body":{}}`,
		`{"type":"result","key":7,"status":200}x`, `{"type":"result","key":7`, `{"key":7}`,
	} {
		if m, err := parseReply([]byte(line)); err == nil {
			t.Errorf("%s: got %+v, want an error", line, m)
		}
	}
}

// However a message is picked apart, it is what a JSON decoder sees, or an answer whose body is no JSON.
func FuzzParseMessage(f *testing.F) {
	f.Add([]byte(`{"type":"result","key":7,"status":200,"body":{"a":",\"body\":"}}`))
	f.Add([]byte(`{"type":"error","key":7,"status":400,"body":{}, "body":1}`))
	f.Add([]byte(`{"type":"hello","protocol":1,"tested":false}`))
	f.Add([]byte(`{"type":"result","key":18446744073709551616,"status":65536,"body":{}}`))
	f.Add([]byte(`{"type":"result","key":7,"status":200,"body":}`))
	f.Add([]byte(`{"type":"later","key":{}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		kept := bytes.Clone(line)
		got, err := parseReply(line)
		if !bytes.Equal(kept, line) {
			t.Fatalf("%q was changed to %q", kept, line)
		}
		var want message
		if decodeErr := json.Unmarshal(line, &want); decodeErr != nil || err != nil || want.Type == typeGarbage || got.Type == "result" && !got.Body.IsValid() {
			return
		}
		if want.Type == "error" {
			want.Type = got.Type
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q:\n%s", line, diff)
		}
	})
}

func TestRequestsAreMessages(t *testing.T) {
	r := Request{Key: 1 << 63, URL: `/v1/"x"`, Simple: true, Body: []byte(`{"prompt":"a"}`), Line: 3, Defaults: &Defaults{ID: "d\n1", Params: jsontext.Value(`{"n":1}`)}}
	lines := appendCancel(appendRequest(appendDefaults(nil, r.Defaults), r), []Key{1, 2})
	want := []map[string]any{
		{"type": "defaults", "id": "d\n1", "params": map[string]any{"n": 1.0}},
		{"type": "request", "key": float64(1 << 63), "url": `/v1/"x"`, "form": "simple", "line": 3.0, "defaults": "d\n1", "body": map[string]any{"prompt": "a"}},
		{"type": "cancel", "keys": []any{1.0, 2.0}},
	}
	var got []map[string]any
	for line := range strings.Lines(string(lines)) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		got = append(got, m)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}
