//go:build real

package real

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// TestEveryKindOfRequest sends what the model serves, in both forms, and what it must refuse line by line.
func TestEveryKindOfRequest(t *testing.T) {
	t.Parallel()
	s := newService(t, "STOKER_DEFAULTS__MAX_TOKENS=16", "STOKER_DEFAULTS__TEMPERATURE=0")
	s.drop("kinds.jsonl", []string{
		`{"custom_id":"simple","prompt":"What is the capital of France?"}`,
		`{"custom_id":"messages","messages":[{"role":"user","content":"Say hi."}]}`,
		`{"custom_id":"raw","prompt":"Once upon a time","raw":true}`,
		`{"custom_id":"chat","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"Say hi."}],"model":"any-name"}}`,
		`{"custom_id":"completion","url":"/v1/completions","body":{"prompt":"One, two, three,","logprobs":2}}`,
		`{"custom_id":"responses","url":"/v1/responses","body":{"input":"Say hi."}}`,
		`{"custom_id":"schema","prompt":"Invent a person.","max_tokens":48,"response_format":{"type":"json_schema","json_schema":{"name":"p","schema":{"type":"object","properties":{"name":{"type":"string","maxLength":12},"age":{"type":"integer","minimum":1,"maximum":99}},"required":["name","age"],"additionalProperties":false}}}}`,
		`{"custom_id":"two","prompt":"Name a colour.","n":2,"temperature":1,"seed":1}`,
		`{"custom_id":"cold","prompt":"x","temperature":-1}`,
		`{"custom_id":"greedy","prompt":"x","max_tokens":100000}`,
		`{"custom_id":"vector","url":"/v1/embeddings","body":{"input":"x"}}`,
		`{"custom_id":"cut`,
	})
	s.start()
	s.awaitEnded("kinds")
	output, failures := s.results("kinds.output.jsonl"), s.results("kinds.errors.jsonl")
	for _, id := range []string{"simple", "messages", "raw", "chat", "completion", "responses", "schema", "two"} {
		if _, ok := output[id]; !ok {
			t.Errorf("%s has no answer: %+v", id, failures[id])
		}
	}
	if text, _ := output["simple"].Response.(string); !strings.Contains(text, "Paris") {
		t.Errorf("the capital of France is %q", text)
	}
	var person struct {
		Name string
		Age  int
	}
	if text, _ := output["schema"].Response.(string); json.Unmarshal([]byte(text), &person) != nil {
		t.Errorf("not the JSON that the schema asks for: %q", text)
	}
	for _, id := range []string{"cold", "greedy"} {
		if e := failures[id].Error; e == nil || e.Status == nil || *e.Status != 400 || e.Message == "" {
			t.Errorf("%s: error %+v, want vLLM's own with status 400", id, e)
		}
	}
	if len(failures) != 4 {
		t.Errorf("%d error lines, want 4: %+v", len(failures), failures)
	}

	// The engine is warm: a second file needs no load.
	before := time.Now()
	lines, ids := requests("second", 8)
	s.drop("second.jsonl", lines)
	s.awaitEnded("second")
	t.Logf("the second file was answered %.1f s after it was dropped", time.Since(before).Seconds())
	s.expectOnce("second", ids)
	st, _ := s.status()
	if st.Engine.Restarts != 0 {
		t.Errorf("the engine was started again %d times", st.Engine.Restarts)
	}
	s.verify()
	s.stop()
}

// TestPermanentFailures starts engines that can never run. Status says why, and nothing is tried again.
func TestPermanentFailures(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env  string
		want []string
	}{
		"no such model":    {"STOKER_ENGINE__MODEL=/nowhere/model", []string{"/nowhere/model"}},
		"wrong python":     {"STOKER_ENGINE__PYTHON=/nowhere/python", []string{"/nowhere/python"}},
		"unknown argument": {"STOKER_ENGINE__ARGS__MAX_NUM_SEQ=3", []string{"max_num_seq", "max_num_seqs"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, test.env)
			s.start()
			s.await("the engine to give up", func() bool {
				st, ok := s.status()
				return ok && st.Engine.State == "failed"
			})
			st, _ := s.status()
			out, err := s.command("status").CombinedOutput()
			if err == nil {
				t.Error("status exits with 0")
			}
			t.Logf("%s", out)
			for _, want := range test.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("status does not mention %q", want)
				}
			}
			if st.Engine.Restarts != 0 {
				t.Errorf("it was started again %d times", st.Engine.Restarts)
			}
			s.stop()
		})
	}
}
