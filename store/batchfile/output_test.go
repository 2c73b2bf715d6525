package batchfile

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
)

const (
	batchID   = "batch_01k0c5c7j3e4n9q0y8m2z6t1rw"
	requestID = "req-1"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Bodies as vLLM sends them, shortened.
const (
	chatBody = `{"id":"chatcmpl-1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant",` +
		`"content":"Hi \"there\" \u00e4","refusal":null,"tool_calls":[],"reasoning":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],` +
		`"usage":{"prompt_tokens":12,"total_tokens":15,"completion_tokens":3,"prompt_tokens_details":null}}`
	choicesBody = `{"choices":[{"message":{"content":"a"},"finish_reason":"length"},{"message":{"content":"b"},"finish_reason":"stop"}],` +
		`"usage":{"prompt_tokens":1,"completion_tokens":2}}`
	toolBody = `{"choices":[{"message":{"role":"assistant","content":null,"tool_calls":[{"id":"t1","type":"function",` +
		`"function":{"name":"f","arguments":"{}"}}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}`
	textBody      = `{"object":"text_completion","choices":[{"index":0,"text":" world","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":1}}`
	embeddingBody = `{"object":"list","data":[{"index":0,"embedding":[0.5,-1]}],"usage":{"prompt_tokens":4,"total_tokens":4,"completion_tokens":0}}`
	responseBody  = `{"object":"response","status":"incomplete","incomplete_details":{"reason":"max_output_tokens"},"output":[],"usage":{"input_tokens":5,"output_tokens":6}}`
	doneBody      = `{"object":"response","status":"completed","incomplete_details":null,"output":[],"usage":{"input_tokens":5,"output_tokens":6}}`
	errorJSON     = `{"error":{"message":"max_tokens must be at least 1","type":"BadRequestError","param":"max_tokens","code":400}}`
)

// golden compares a line with its file, and demands that it is one valid JSON line.
func golden(t *testing.T, name string, line []byte) {
	t.Helper()
	if !jsontext.Value(line).IsValid() || bytes.ContainsAny(line, "\r\n") {
		t.Fatalf("not one JSON line: %q", line)
	}
	path := filepath.Join("testdata", "golden", name+".jsonl")
	got := string(line) + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
}

func TestAppendOutput(t *testing.T) {
	tests := []struct {
		name, line, body string
		info             Info
	}{
		{"output-openai", `{"custom_id":"a\"\u00e4","body":{"messages":[]}}`, chatBody, Info{12, 3, "stop"}},
		{"output-openai-compacted", `{"custom_id":"a","body":{"messages":[]}}`, "{\r\n\"choices\": [],\n \"x\": \"a b\"\n}", Info{}},
		{"output-embeddings", `{"custom_id":"a","body":{"input":"x"}}`, embeddingBody, Info{4, 0, ""}},
		{"output-responses-incomplete", `{"custom_id":"a","url":"/v1/responses","body":{"input":"x"}}`, responseBody, Info{5, 6, "length"}},
		{"output-responses", `{"custom_id":"a","url":"/v1/responses","body":{"input":"x"}}`, doneBody, Info{5, 6, "stop"}},
		{"output-simple", `{"custom_id":"a","prompt":"x"}`, chatBody, Info{12, 3, "stop"}},
		{"output-simple-unnamed", `{"prompt":"x"}`, chatBody, Info{12, 3, "stop"}},
		{"output-simple-metadata", "{\"custom_id\":\"a\",\"prompt\":\"x\",\"metadata\":{\"k\":\r[1, null]}}", chatBody, Info{12, 3, "stop"}},
		{"output-simple-choices", `{"custom_id":"a","prompt":"x","n":2}`, choicesBody, Info{1, 2, "length"}},
		{"output-simple-tools", `{"custom_id":"a","messages":[{}]}`, toolBody, Info{1, 2, "tool_calls"}},
		{"output-simple-raw", `{"custom_id":"a","prompt":"x","raw":true}`, textBody, Info{1, 1, "stop"}},
		{"output-simple-bare", `{"custom_id":"a","prompt":"x","raw":true}`, `{"choices":[{"text":"x"}]}`, Info{}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			req, err := new(Parser).Parse([]byte(test.line), testLine)
			if err != nil {
				t.Fatal(err)
			}
			line, info, err := new(Encoder).AppendOutput(nil, &req, RequestID(batchID, testLine), requestID, []byte(test.body))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, test.name, line)
			if diff := cmp.Diff(test.info, info); diff != "" {
				t.Errorf("info (-want +got):\n%s", diff)
			}
			id, number, ok := ReadRef(line)
			if wantLine := int64(testLine) * int64(1-req.Form); id != req.CustomID || number != wantLine || !ok {
				t.Errorf("ReadRef = %q, %d, %v, want %q, %d", id, number, ok, req.CustomID, wantLine)
			}
		})
	}
}

func TestAppendOutputRefusesWhatIsNoAnswer(t *testing.T) {
	simple := Request{Ref: named("a", Simple)}
	openAI := Request{Ref: named("a", OpenAI)}
	for _, test := range []struct {
		name, body, want string
		req              *Request
	}{
		{"no JSON", `{"choices":`, "unexpected EOF", &openAI},
		{"array", `[]`, "must be one JSON object", &openAI},
		{"two", `{} {}`, "something follows", &openAI},
		{"nothing", ``, "EOF", &openAI},
		{"broken over lines", "{\n", "unexpected EOF", &openAI},
		{"no choices", `{"choices":[]}`, "no choices", &simple},
		{"too deep to be read back", nested(maxNesting - 1), "nested too deep", &openAI},
	} {
		t.Run(test.name, func(t *testing.T) {
			dst := []byte("before")
			got, _, err := new(Encoder).AppendOutput(dst, test.req, "id", "", []byte(test.body))
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "line 7") {
				t.Errorf("error %v, want one that says %q and line 7", err, test.want)
			}
			if string(got) != "before" {
				t.Errorf("dst is %q", got)
			}
		})
	}
}

func TestAppendError(t *testing.T) {
	tests := []struct {
		name          string
		ref           Ref
		failure       Failure
		code, message string
	}{
		{"error-openai-http", named("a", OpenAI), Failure{Status: 400, Body: []byte(errorJSON)}, "BadRequestError", "max_tokens must be at least 1"},
		{"error-openai-http-bare", named("a", OpenAI), Failure{Status: 500, Message: "it \"broke\""}, "server_error", `it "broke"`},
		{"error-openai-http-word", named("a", OpenAI), Failure{Status: 404, Body: []byte(`{"error":{"message":"no","type":"t","code":"model_not_found"}}`)}, "model_not_found", "no"},
		{"error-openai-http-status", named("a", OpenAI), Failure{Status: 503, Body: []byte(`{"error":{"message":"no"}}`)}, "503", "no"},
		{"error-openai", named("a", OpenAI), Failure{Code: CodeBatchExpired, Message: "late"}, CodeBatchExpired, "late"},
		{"error-unreadable", Ref{Line: testLine}, Failure{Code: CodeInvalidJSON, Message: "cut off\xff"}, CodeInvalidJSON, "cut off\uFFFD"},
		{"error-simple", Ref{CustomID: "a", HasID: true, Line: testLine, Form: Simple, Metadata: []byte(`{"k":1}`)},
			Failure{Code: CodeEngineCrashed, Message: "twice"}, CodeEngineCrashed, "twice"},
		{"error-simple-http", named("a", Simple), Failure{Status: 400, Body: []byte(errorJSON)}, "BadRequestError", "max_tokens must be at least 1"},
		{"error-simple-http-bare", named("a", Simple), Failure{Status: 500, Message: "broke", Body: []byte("<html>")}, "server_error", "broke"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			line := AppendError(nil, &test.ref, RequestID(batchID, testLine), requestID, test.failure)
			golden(t, test.name, line)
			code, message := ErrorSummary(line)
			if code != test.code || message != test.message {
				t.Errorf("ErrorSummary = %q, %q, want %q, %q", code, message, test.code, test.message)
			}
			id, number, ok := ReadRef(line)
			if id != test.ref.CustomID || number != testLine || !ok {
				t.Errorf("ReadRef = %q, %d, %v", id, number, ok)
			}
		})
	}
}

func TestReadRefOfOtherLines(t *testing.T) {
	for _, in := range []string{"", "x", "[]", `{"a":1}`, `{"custom_id":"a"`} {
		if id, line, ok := ReadRef([]byte(in)); ok {
			t.Errorf("ReadRef(%s) = %q, %d, true", in, id, line)
		}
	}
}

func TestRequestID(t *testing.T) {
	if got, want := RequestID(batchID, 12), "batch_req_01k0c5c7j3e4n9q0y8m2z6t1rw_12"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzAppendOutput checks that whatever the engine sends becomes one valid line or an error.
func FuzzAppendOutput(f *testing.F) {
	for _, body := range []string{
		chatBody, choicesBody, toolBody, textBody, embeddingBody, responseBody, doneBody, errorJSON, "{\n\"choices\":[{\"text\":5}]}",
		"<html>",
	} {
		f.Add([]byte(body), "a", []byte(`{"k":1}`), uint16(400))
	}
	f.Add([]byte(chatBody), "\xff\u2028", []byte("{\"k\":\r\n1}"), uint16(0))
	f.Fuzz(checkAnswer)
}

// checkAnswer makes lines of an answer, in all ways.
func checkAnswer(t *testing.T, body []byte, id string, metadata []byte, status uint16) {
	for _, form := range []Form{OpenAI, Simple} {
		req := Request{Ref: Ref{CustomID: id, HasID: true, Line: 3, Form: form}}
		if jsontext.Value(metadata).IsValid() {
			req.Metadata = metadata
		}
		line, _, err := new(Encoder).AppendOutput([]byte("x"), &req, RequestID(batchID, 3), id, body)
		if valid := isObject(body); (err == nil) != valid && form == OpenAI && openings(body) <= maxNesting-2 {
			t.Fatalf("%q: %v", body, err)
		}
		if err == nil {
			checkResultLine(t, line[1:], id, int64(3)*int64(1-form))
		} else if string(line) != "x" {
			t.Fatalf("an error left %q", line)
		}
		line = AppendError(nil, &req.Ref, RequestID(batchID, 3), id, Failure{Status: int(status), Body: body, Code: id, Message: id})
		checkResultLine(t, line, id, 3)
		ErrorSummary(line)
	}
}

func TestDeepAnswers(t *testing.T) {
	for depth := maxNesting - 3; depth <= maxNesting+1; depth++ {
		checkAnswer(t, []byte(nested(depth)), "a", []byte(nested(maxNesting-1)), 400)
	}
}

// openings bounds how deep a JSON text is nested.
func openings(text []byte) int {
	return bytes.Count(text, []byte("[")) + bytes.Count(text, []byte("{"))
}

func checkResultLine(t *testing.T, line []byte, id string, number int64) {
	t.Helper()
	if !isObject(line) || bytes.ContainsAny(line, "\r\n") {
		t.Fatalf("not one JSON line: %q", line)
	}
	got, n, ok := ReadRef(line)
	if !ok || got != string([]rune(id)) || n != number { // what is not UTF-8 becomes U+FFFD
		t.Fatalf("%q has id %q, line %d, want %q, %d", line, got, n, id, number)
	}
}

// FuzzReadRef reads what may be no result line at all.
func FuzzReadRef(f *testing.F) {
	for _, line := range []string{
		`{"id":"batch_req_01k0c5c7j3e4n9q0y8m2z6t1rw_3","custom_id":"a","response":null,"error":{"code":"c","message":"m"}}`,
		`{"custom_id":null,"line":7,"response":null,"error":null}`, `{"id":"batch_req__","custom_id":"a"}`,
		`{"id":"batch_req_1_99999999999999999999","custom_id":1}`, `{"error":[],"response":{"status_code":"x","body":[]}}`, `{"id":"`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		if _, _, ok := ReadRef(line); ok && !isObject(line) && jsontext.Value(line).Kind() != jsontext.KindBeginObject {
			t.Fatalf("took %q for a result line", line)
		}
		ErrorSummary(line)
	})
}
