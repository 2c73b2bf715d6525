package engine

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
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

// chunks reads a text in pieces of given sizes, the last of them again and again.
type chunks struct {
	text  []byte
	sizes []int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.text) == 0 {
		return 0, io.EOF
	}
	n := len(c.text)
	if len(c.sizes) > 0 {
		n, c.sizes = c.sizes[0], c.sizes[1:]
	}
	n = copy(p[:min(n, len(p))], c.text)
	c.text = c.text[n:]
	return n, nil
}

func readLines(t interface{ Fatal(...any) }, r io.Reader) []string {
	var all []string
	in := lineReader{r: r}
	for {
		lines, err := in.lines()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			all = append(all, string(line))
		}
	}
}

func linesOf(text string) []string {
	lines := strings.Split(text, "\n")
	if lines = lines[:len(lines)-1]; len(lines) == 0 {
		return nil
	}
	return lines
}

// However the bytes arrive, the lines are the same.
func TestLineReaderChunks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`([ab]{0,9}\n?){0,40}`).Draw(t, "text")
		sizes := rapid.SliceOf(rapid.IntRange(0, 12)).Draw(t, "sizes")
		if diff := cmp.Diff(linesOf(text), readLines(t, &chunks{[]byte(text), sizes})); diff != "" {
			t.Fatalf("lines (-want +got):\n%s", diff)
		}
	})
}

func FuzzLineReader(f *testing.F) {
	f.Add("one\ntwo\n\nthree", []byte{1, 2, 0, 3})
	f.Add("\n\n", []byte{})
	f.Fuzz(func(t *testing.T, text string, sizes []byte) {
		c := &chunks{text: []byte(text)}
		for _, n := range sizes {
			c.sizes = append(c.sizes, int(n))
		}
		if diff := cmp.Diff(linesOf(text), readLines(t, c)); diff != "" {
			t.Errorf("lines (-want +got):\n%s", diff)
		}
	})
}

func TestLineReaderLongLines(t *testing.T) {
	long := strings.Repeat("x", 3<<20)
	if got := readLines(t, strings.NewReader("a\n"+long+"\nb\n")); len(got) != 3 || got[1] != long || got[2] != "b" {
		t.Errorf("got %d lines", len(got))
	}
}
