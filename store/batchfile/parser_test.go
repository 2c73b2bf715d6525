package batchfile

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

const testLine = 7 // the line number that tests parse with

func named(id string, form Form) Ref {
	return Ref{CustomID: id, HasID: true, Line: testLine, Form: form}
}

func TestParseValid(t *testing.T) {
	tests := []struct {
		name, in string
		want     Request
	}{
		{"openai", `{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}`,
			Request{Ref: named("a", OpenAI), URL: ChatCompletions, Body: []byte(`{"model":"m","messages":[]}`), Model: "m"}},
		{"everything left out", `{"body": {"messages":[{}]} }`,
			Request{Ref: named("line-7", OpenAI), URL: ChatCompletions, Body: []byte(`{"messages":[{}]}`)}},
		{"null is left out", `{"custom_id":null,"method":null,"url":null,"body":{"prompt":"x","stream":null,"model":null}}`,
			Request{Ref: named("line-7", OpenAI), URL: Completions, Body: []byte(`{"prompt":"x","stream":null,"model":null}`)}},
		{"completions", `{"custom_id":"a","url":"/v1/completions","body":{"prompt":["a","b"]}}`,
			Request{Ref: named("a", OpenAI), URL: Completions, Body: []byte(`{"prompt":["a","b"]}`)}},
		{"embeddings", `{"custom_id":"a","body":{"input":"x"}}`,
			Request{Ref: named("a", OpenAI), URL: Embeddings, Body: []byte(`{"input":"x"}`)}},
		{"responses by url", `{"custom_id":"a","url":"/v1/responses","body":{"input":"x"}}`,
			Request{Ref: named("a", OpenAI), URL: Responses, Body: []byte(`{"input":"x"}`)}},
		{"responses by their own member", `{"custom_id":"a","body":{"input":"x","max_output_tokens":3}}`,
			Request{Ref: named("a", OpenAI), URL: Responses, Body: []byte(`{"input":"x","max_output_tokens":3}`), MaxTokens: 3}},
		{"rerank", `{"custom_id":"a","body":{"query":"x","documents":[]}}`,
			Request{Ref: named("a", OpenAI), URL: Rerank, Body: []byte(`{"query":"x","documents":[]}`)}},
		{"score", `{"custom_id":"a","body":{"text_1":"x","text_2":"y"}}`,
			Request{Ref: named("a", OpenAI), URL: Score, Body: []byte(`{"text_1":"x","text_2":"y"}`)}},
		{"stream: false", `{"custom_id":"a","body":{"messages":[{}],"stream":false}}`,
			Request{Ref: named("a", OpenAI), URL: ChatCompletions, Body: []byte(`{"messages":[{}],"stream":false}`)}},
		{"integer id", `{"custom_id":12345678901234567890123,"body":{"messages":[{}]}}`,
			Request{Ref: named("12345678901234567890123", OpenAI), URL: ChatCompletions, Body: []byte(`{"messages":[{}]}`)}},
		{"id with escapes", `{"custom_id":"\u00e4\n","body":{"messages":[{}]}}`,
			Request{Ref: named("ä\n", OpenAI), URL: ChatCompletions, Body: []byte(`{"messages":[{}]}`)}},
		{"escaped member name", `{"custom\u005fid":"a","body":{"messages":[{}]}}`,
			Request{Ref: named("a", OpenAI), URL: ChatCompletions, Body: []byte(`{"messages":[{}]}`)}},
		{"escaped url", `{"custom_id":"a","url":"\/v1\/score","body":{"queries":"x","documents":[]}}`,
			Request{Ref: named("a", OpenAI), URL: Score, Body: []byte(`{"queries":"x","documents":[]}`)}},
		{"simple prompt", `{"custom_id":"a","prompt":"hi","temperature":0,"model":"m"}`,
			Request{Ref: named("a", Simple), URL: ChatCompletions, Body: []byte(`{"custom_id":"a","prompt":"hi","temperature":0,"model":"m"}`), Model: "m"}},
		{"simple messages", `{"messages":[{"role":"user","content":"hi"}]}`,
			Request{Ref: named("line-7", Simple), URL: ChatCompletions, Body: []byte(`{"messages":[{"role":"user","content":"hi"}]}`)}},
		{"simple raw prompt", `{"custom_id":"a","prompt":"hi","raw":true}`,
			Request{Ref: named("a", Simple), URL: Completions, Body: []byte(`{"custom_id":"a","prompt":"hi","raw":true}`)}},
		{"simple raw tokens", `{"custom_id":"a","prompt":[1,2],"raw":true}`,
			Request{Ref: named("a", Simple), URL: Completions, Body: []byte(`{"custom_id":"a","prompt":[1,2],"raw":true}`)}},
		{"simple, not raw", `{"custom_id":"a","prompt":"hi","raw":false}`,
			Request{Ref: named("a", Simple), URL: ChatCompletions, Body: []byte(`{"custom_id":"a","prompt":"hi","raw":false}`)}},
		{"simple metadata", `{"custom_id":"a","prompt":"hi","metadata":{"k":[1]}}`,
			Request{Ref: Ref{CustomID: "a", HasID: true, Line: testLine, Form: Simple, Metadata: []byte(`{"k":[1]}`)},
				URL: ChatCompletions, Body: []byte(`{"custom_id":"a","prompt":"hi","metadata":{"k":[1]}}`)}},
	}
	var p Parser
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := p.Parse([]byte(test.in), testLine)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMaxTokens(t *testing.T) {
	for in, want := range map[string]int64{
		`{"prompt":"x","max_tokens":7}`:                                        7,
		`{"prompt":"x","max_tokens":7,"max_completion_tokens":9}`:              9,
		`{"body":{"messages":[],"max_tokens":7,"max_completion_tokens":null}}`: 7,
		`{"url":"/v1/responses","body":{"input":"x","max_output_tokens":3}}`:   3,
		`{"body":{"messages":[],"max_tokens":-5}}`:                             0,
		`{"body":{"messages":[],"max_tokens":"7"}}`:                            0,
		`{"body":{"messages":[],"max_tokens":1e3}}`:                            0,
		`{"body":{"messages":[{"max_tokens":7}]}}`:                             0,
		`{"url":"/v1/completions","max_tokens":5,"body":{"prompt":"x"}}`:       0,
	} {
		req, err := new(Parser).Parse([]byte(in), 1)
		if err != nil || req.MaxTokens != want {
			t.Errorf("%s bounds its answer by %d, want %d: %v", in, req.MaxTokens, want, err)
		}
	}
}

func TestAnswerLimit(t *testing.T) {
	for object, want := range map[string]int64{
		``: 0, `{}`: 0, `{"max_tokens":7}`: 7, `{"max_tokens":7,"max_completion_tokens":9}`: 9, `{"temperature":0.5}`: 0, `{"max_output_tokens":8}`: 8,
		`{"max_tokens":"7"}`: 0, `[7]`: 0, `{"max_tokens":7`: 0,
	} {
		if got := AnswerLimit([]byte(object)); got != want {
			t.Errorf("%s bounds answers by %d, want %d", object, got, want)
		}
	}
}

func TestParseInvalid(t *testing.T) {
	unread := func(form Form) Ref { return Ref{Line: testLine, Form: form} }
	tests := []struct {
		name, in string
		code     string
		column   int
		message  string // part of it
		ref      Ref
	}{
		{"array", `[1]`, CodeInvalidJSON, 1, "not an array", unread(OpenAI)},
		{"string", `"x"`, CodeInvalidJSON, 1, "not a string", unread(OpenAI)},
		{"no JSON", ` hello`, CodeInvalidJSON, 2, "invalid character 'h'", unread(OpenAI)},
		{"zeros", "\x00\x00", CodeInvalidJSON, 1, "invalid character", unread(OpenAI)},
		{"two objects", `{"custom_id":"a","prompt":"x"} {"b":1}`, CodeInvalidJSON, 32, "something follows", named("a", Simple)},
		{"garbage behind", `{"custom_id":"a","prompt":"x"}x`, CodeInvalidJSON, 31, "something follows", named("a", Simple)},
		{"cut off", `{"custom_id":"a","prompt":"x`, CodeInvalidJSON, 29, "cut off", named("a", Simple)},
		{"cut off before its id", `{"body":{"messages":[`, CodeInvalidJSON, 22, "cut off", unread(OpenAI)},
		{"opening brace of a pretty-printed object", `{`, CodeInvalidJSON, 2, "goes on in the next", unread(OpenAI)},
		{"comma missing", `{"custom_id":"a" "prompt":"x"}`, CodeInvalidJSON, 18, "expecting ','", named("a", OpenAI)},
		{"repeated member", `{"prompt":"x","prompt":"y","custom_id":"a"}`, CodeInvalidJSON, 15, `repeated member "prompt"`, named("a", Simple)},
		{"repeated id", `{"custom_id":"a","custom_id":"b","prompt":"y"}`, CodeInvalidJSON, 18, `repeated member "custom_id"`, named("a", Simple)},
		{"repeated by escape", `{"custom_id":"a","prompt":"x","pr\u006fmpt":"y"}`, CodeInvalidJSON, 31, `repeated member "prompt"`, named("a", Simple)},
		{"repeated in the body", `{"custom_id":"a","body":{"model":"m","model":"m"}}`, CodeInvalidJSON, 38, `repeated member "model"`, named("a", OpenAI)},
		{"repeated deep inside", `{"custom_id":"a","body":{"messages":[{"role":"user","x":{"y":[{"z":1,"z":2}]}}]}}`, CodeInvalidJSON, 70, `repeated member "z"`, named("a", OpenAI)},
		{"repeated in metadata", `{"custom_id":"a","prompt":"x","metadata":{"k":1,"k":2}}`, CodeInvalidJSON, 49, `repeated member "k"`, named("a", Simple)},
		{"not UTF-8", "{\"custom_id\":\"a\",\"prompt\":\"M\xfcller\"}", CodeInvalidEncoding, 29, "byte 0xfc", named("a", Simple)},
		{"id is not UTF-8", "{\"custom_id\":\"\xfc\",\"prompt\":\"x\"}", CodeInvalidEncoding, 15, "byte 0xfc", unread(Simple)},
		{"half a surrogate pair", `{"custom_id":"a","prompt":"\ud83d"}`, CodeInvalidJSON, 28, "surrogate", named("a", Simple)},
		{"id with half a surrogate pair", `{"custom_id":"\ud83d","prompt":"x"}`, CodeInvalidJSON, 15, "surrogate", unread(Simple)},

		{"id of another type", `{"custom_id":true,"prompt":"x"}`, CodeInvalidRequest, 14, "custom_id", unread(Simple)},
		{"id is a fraction", `{"custom_id":1.5,"prompt":"x"}`, CodeInvalidRequest, 14, "custom_id", unread(Simple)},
		{"id is empty", `{"custom_id":"","prompt":"x"}`, CodeInvalidRequest, 14, "custom_id", unread(Simple)},
		{"empty object", `{}`, CodeInvalidRequest, 0, "neither body nor prompt", named("line-7", OpenAI)},
		{"method", `{"custom_id":"a","method":"GET","body":{"messages":[]}}`, CodeInvalidRequest, 27, `not "GET"`, named("a", OpenAI)},
		{"url", `{"custom_id":"a","url":"/v1/files","body":{"messages":[]}}`, CodeInvalidRequest, 24, `unknown url "/v1/files"`, named("a", OpenAI)},
		{"url of another type", `{"custom_id":"a","url":5,"body":{"messages":[]}}`, CodeInvalidRequest, 24, "unknown url 5", named("a", OpenAI)},
		{"no body", `{"custom_id":"a","url":"/v1/completions"}`, CodeInvalidRequest, 0, "no body", named("a", OpenAI)},
		{"body of another type", `{"custom_id":"a","body":"{}"}`, CodeInvalidRequest, 25, "body must be an object, not a string", named("a", OpenAI)},
		{"body null", `{"custom_id":"a","body":null}`, CodeInvalidRequest, 25, "not null", named("a", OpenAI)},
		{"body without what its url needs", `{"custom_id":"a","url":"/v1/chat/completions","body":{"prompt":"x"}}`, CodeInvalidRequest, 54, "needs messages", named("a", OpenAI)},
		{"rerank without documents", `{"custom_id":"a","url":"/v1/rerank","body":{"query":"x"}}`, CodeInvalidRequest, 44, "needs query and documents", named("a", OpenAI)},
		{"url cannot be guessed", `{"custom_id":"a","body":{"model":"m"}}`, CodeInvalidRequest, 25, "no url", named("a", OpenAI)},
		{"both forms", `{"custom_id":"a","prompt":"x","body":{"messages":[]}}`, CodeInvalidRequest, 27, "beside a body", named("a", OpenAI)},
		{"simple with url", `{"custom_id":"a","url":"/v1/completions","prompt":"x"}`, CodeInvalidRequest, 51, "belong into a body", named("a", OpenAI)},
		{"prompt and messages", `{"custom_id":"a","prompt":"x","messages":[{}]}`, CodeInvalidRequest, 42, "exclude", named("a", Simple)},
		{"prompt and messages in a body", `{"custom_id":"a","body":{"messages":[{}],"prompt":"x"}}`, CodeInvalidRequest, 51, "exclude", named("a", OpenAI)},
		{"stream", `{"custom_id":"a","prompt":"x","stream":true}`, CodeInvalidRequest, 40, "stream", named("a", Simple)},
		{"stream in a body", `{"custom_id":"a","body":{"messages":[],"stream":true}}`, CodeInvalidRequest, 49, "stream", named("a", OpenAI)},
		{"stream that an engine would take for true", `{"custom_id":"a","prompt":"x","stream":"yes"}`, CodeInvalidRequest, 40, "stream", named("a", Simple)},
		{"model", `{"custom_id":"a","prompt":"x","model":["m"]}`, CodeInvalidRequest, 39, "model must be a string, not an array", named("a", Simple)},
		{"prompt of another type", `{"custom_id":"a","prompt":["x"]}`, CodeInvalidRequest, 27, "prompt must be a string, not an array", named("a", Simple)},
		{"raw prompt of another type", `{"custom_id":"a","prompt":{},"raw":true}`, CodeInvalidRequest, 27, "array of tokens, not an object", named("a", Simple)},
		{"raw prompt without tokens", `{"custom_id":"a","prompt":[ ],"raw":true}`, CodeInvalidRequest, 27, "array of tokens", named("a", Simple)},
		{"raw of another type", `{"custom_id":"a","prompt":"x","raw":"yes"}`, CodeInvalidRequest, 37, "raw must be true or false", named("a", Simple)},
		{"raw messages", `{"custom_id":"a","messages":[{}],"raw":true}`, CodeInvalidRequest, 40, "raw goes with prompt", named("a", Simple)},
		{"messages of another type", `{"custom_id":"a","messages":"x"}`, CodeInvalidRequest, 29, "messages must be an array", named("a", Simple)},
		{"no messages", `{"custom_id":"a","messages":[]}`, CodeInvalidRequest, 29, "messages must be an array", named("a", Simple)},
	}
	var p Parser
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := p.Parse([]byte(test.in), testLine)
			got, ok := errors.AsType[*LineError](err)
			if !ok {
				t.Fatalf("error is %v, want a *LineError", err)
			}
			if got.Code != test.code || got.Column != test.column || !strings.Contains(got.Message, test.message) {
				t.Errorf("got %s at %d: %s\nwant %s at %d: …%s…", got.Code, got.Column, got.Message, test.code, test.column, test.message)
			}
			got.Metadata = nil // has a test of its own
			if diff := cmp.Diff(test.ref, got.Ref); diff != "" {
				t.Errorf("ref (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseKeepsMetadataOfBadLines(t *testing.T) {
	_, err := new(Parser).Parse([]byte(`{"metadata":{"k":1},"prompt":5}`), testLine)
	got, _ := errors.AsType[*LineError](err)
	if got == nil || string(got.Metadata) != `{"k":1}` {
		t.Errorf("got %+v, want metadata", got)
	}
}

func TestTooLongErrorReadsTheHead(t *testing.T) {
	text := `{"custom_id":"a","prompt":"` + strings.Repeat("x", 2*HeadLength) + `"}`
	line, err := NewSplitter(strings.NewReader(text), HeadLength).Next()
	if err != nil {
		t.Fatal(err)
	}
	want := &LineError{
		Ref:     Ref{CustomID: "a", HasID: true, Line: 1, Form: Simple},
		Code:    CodeLineTooLong,
		Message: "the line has 8221 bytes, max_line is 4096",
	}
	if diff := cmp.Diff(want, TooLongError(line, HeadLength)); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}

func TestDuplicateError(t *testing.T) {
	for first, want := range map[int64]string{
		3: `duplicate_custom_id: custom_id "a" is already that of line 3`,
		0: `duplicate_custom_id: custom_id "a" is already that of an earlier line`,
	} {
		if got := DuplicateError(named("a", Simple), first).Error(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// FuzzParser checks what is accepted against a decoder that knows nothing of the parser, and that what is no JSON object
// is refused as such.
func FuzzParser(f *testing.F) {
	f.Add([]byte(`{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user"}]}}`))
	f.Add([]byte(`{"custom_id":5,"prompt":"x","raw":true,"metadata":{"k":[1]}}`))
	f.Add([]byte(`{"body":{"input":"x"},"body":{}}`))
	f.Add([]byte("{\"custom\\u005fid\":\"\xff\"}"))
	f.Add([]byte(`{"custom_id":"","prompt":"x"}`))
	f.Add([]byte(`{"custom_id":-0,"prompt":"x"}`))
	f.Add([]byte(`{"custom_id":1e3,"messages":[{}]}`))
	f.Add([]byte(`{"\u0062ody":{"promp\u0074":"\ud83d\ude00"},"custom_id":"\u0000"}`))
	var p Parser
	f.Fuzz(func(t *testing.T, text []byte) { checkParse(t, &p, text) })
}

func checkParse(t *testing.T, p *Parser, text []byte) {
	t.Helper()
	kept := bytes.Clone(text)
	req, err := p.Parse(text, testLine)
	if !bytes.Equal(kept, text) {
		t.Fatalf("%q was changed to %q", kept, text)
	}
	req.Body, req.Metadata = bytes.Clone(req.Body), bytes.Clone(req.Metadata)
	again, errAgain := p.ParseAgain(text, testLine) // comes to an end, whatever the text is
	if err != nil {
		checkLineError(t, text, err)
		return
	}
	if diff := cmp.Diff(req, again); diff != "" || errAgain != nil {
		t.Fatalf("%q read again is another request: %v\n%s", text, errAgain, diff)
	}
	if !isObject(text) || !isObject(req.Body) || req.Line != testLine || req.URL == "" {
		t.Fatalf("accepted %q as %+v", text, req)
	}
	checkRequest(t, text, &req)
}

func TestParseDeepNesting(t *testing.T) {
	brackets := `"` + strings.Repeat(`[\\\"{`, maxDepth) + `"`
	for _, test := range []struct {
		name, in string
		column   int // of the fault; 0: none
	}{
		{"as deep as may be", nested(maxDepth), 0},
		{"too deep", nested(maxDepth + 1), len(`{"prompt":"x","stop":`) + maxDepth},
		{"brackets in strings", `{"prompt":` + brackets + `,` + brackets + `:1}`, 0},
		{"many beside each other", `{"prompt":"x","stop":[` + strings.Repeat("[],{},", maxDepth) + `[]]}`, 0},
		{"as deep as JSON is read", nested(maxNesting), len(`{"prompt":"x","stop":`) + maxDepth},
	} {
		checkParse(t, new(Parser), []byte(test.in))
		_, err := new(Parser).Parse([]byte(test.in), testLine)
		if fault, _ := errors.AsType[*LineError](err); (fault == nil) != (test.column == 0) {
			t.Errorf("%s: %v", test.name, err)
		} else if fault != nil && (fault.Code != CodeInvalidRequest || fault.Column != test.column) {
			t.Errorf("%s: %s at %d, want column %d", test.name, fault.Code, fault.Column, test.column)
		}
	}
	checkParse(t, new(Parser), []byte(nested(maxNesting+1)))
}

// What the error of a line repeats of it can be read.
func TestDeepMetadataIsNotRepeated(t *testing.T) {
	deep := strings.Repeat("[", maxDepth+1) + strings.Repeat("]", maxDepth+1)
	for _, tail := range []string{"}", ","} { // the second one is no JSON
		_, err := new(Parser).Parse([]byte(`{"prompt":"x","metadata":`+deep+tail), testLine)
		if fault, ok := errors.AsType[*LineError](err); !ok || fault.Ref.Metadata != nil {
			t.Errorf("ends in %s: %v, metadata of %d bytes", tail, err, len(fault.Ref.Metadata))
		}
	}
	_, err := new(Parser).Parse([]byte(`{"prompt":"x","metadata":{"a":[1]},"stream":true}`), testLine)
	if fault, ok := errors.AsType[*LineError](err); !ok || string(fault.Ref.Metadata) != `{"a":[1]}` {
		t.Errorf("%v", err)
	}
}

// checkRequest holds an accepted line against its members.
func checkRequest(t *testing.T, text []byte, req *Request) {
	t.Helper()
	var members map[string]jsontext.Value
	if err := json.Unmarshal(text, &members); err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	given := func(name string) bool { return members[name] != nil && members[name].Kind() != jsontext.KindNull }
	want, form := text, Simple
	if members["body"] != nil {
		want, form = members["body"], OpenAI
	}
	if !bytes.Equal(req.Body, want) || req.Form != form {
		t.Fatalf("%q: the body of the %v line is %q", text, req.Form, req.Body)
	}
	if given("method") && string(members["method"]) != `"POST"` || given("prompt") && given("messages") {
		t.Fatalf("accepted %q", text)
	}
	id := "line-7"
	if given("custom_id") {
		id = string(members["custom_id"])
		if members["custom_id"].Kind() == jsontext.KindString {
			if err := json.Unmarshal(members["custom_id"], &id); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
		}
	}
	if !req.HasID || req.CustomID != id || id == "" {
		t.Fatalf("%q has custom_id %q, want %q", text, req.CustomID, id)
	}
	if given("metadata") != (req.Metadata != nil) || req.Metadata != nil && !bytes.Equal(req.Metadata, members["metadata"]) {
		t.Fatalf("%q has metadata %q", text, req.Metadata)
	}
}

// nested is a simple line whose values lie that deep in each other.
func nested(depth int) string {
	return `{"prompt":"x","stop":` + strings.Repeat("[", depth-1) + strings.Repeat("]", depth-1) + `}`
}

func checkLineError(t *testing.T, text []byte, err error) {
	t.Helper()
	fault, ok := err.(*LineError)
	if !ok {
		t.Fatalf("%T is no *LineError: %v", err, err)
	}
	if syntax := fault.Code == CodeInvalidJSON || fault.Code == CodeInvalidEncoding; syntax == isObject(text) {
		t.Fatalf("%q: %v", text, fault)
	}
	if fault.Column < 0 || fault.Column > len(text)+1 || fault.Message == "" || fault.Line != testLine {
		t.Fatalf("incomplete error %+v", fault)
	}
	if line := AppendError(nil, &fault.Ref, "id", "", Failure{Code: fault.Code, Message: fault.Message}); !isObject(line) {
		t.Fatalf("error line %q", line)
	}
}

func isObject(text []byte) bool {
	return jsontext.Value(text).IsValid() && jsontext.Value(text).Kind() == jsontext.KindBeginObject
}

// The walk must agree with a decoder that knows nothing of it.
func TestParseAgreesWithUnmarshal(t *testing.T) {
	in := `{"url":"/v1/chat/completions","body":{"messages":[{"content":"a\"b\\"}],"model":"\u006d"},"custom_id":"x\/y"}`
	var want struct {
		CustomID string         `json:"custom_id"`
		Body     jsontext.Value `json:"body"`
	}
	if err := json.UnmarshalRead(io.Reader(strings.NewReader(in)), &want); err != nil {
		t.Fatal(err)
	}
	got, err := new(Parser).Parse([]byte(in), 1)
	if err != nil || got.CustomID != want.CustomID || string(got.Body) != string(want.Body) || got.Model != "m" {
		t.Errorf("got %+v, %v", got, err)
	}
}
