package bench

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Scenario is a load, and the ways that are compared over it.
type Scenario struct {
	Name   string   `json:"name"`
	Load   Load     `json:"load"`
	Ways   []string `json:"-"`
	Starts bool     `json:"starts,omitzero"` // starts count: stoker's one, and a script's for each file
	About  string   `json:"-"`

	own []string // Ways before some were chosen
}

// wordsPerPrompt makes prompts of about 300 bytes.
const wordsPerPrompt = 40

func gpuLoad(requests, files int) Load {
	return Load{Requests: requests, Files: files, MeanTokens: 300, MaxTokens: 1200, PromptWords: wordsPerPrompt, Seed: 1}
}

// Scenarios are the ready-made ones, by name.
func Scenarios() map[string]Scenario {
	longest := gpuLoad(3000, 1)
	longest.LongestFirst = true
	all := []Scenario{
		{
			Name: "lines", About: "what stoker itself costs", Ways: []string{"stoker", "echo-loop"},
			Load: Load{Requests: 100_000, Files: 1, MeanTokens: 300, MaxTokens: 1200, PromptWords: wordsPerPrompt, Seed: 1},
		},
		{
			Name: "small", About: "small files, short answers: for a CPU", Ways: []string{"stoker", "handlers", "llm-chat", "llm-chat-files", "run-batch", "serve"},
			Load: Load{Requests: 96, Files: 6, MeanTokens: 40, MaxTokens: 160, PromptWords: wordsPerPrompt, Seed: 1},
		},
		{Name: "one-file", About: "one file", Ways: []string{"stoker", "handlers", "llm-chat", "run-batch", "serve"}, Load: gpuLoad(1024, 1)},
		{Name: "files", About: "small files, one after another", Ways: []string{"stoker", "handlers", "llm-chat-files"}, Load: gpuLoad(512, 8)},
		{Name: "starts", About: "a script run once a file, starts and all", Ways: []string{"stoker", "llm-chat-files"}, Load: gpuLoad(1000, 10), Starts: true},
		{Name: "large", About: "one large file", Ways: []string{"stoker", "handlers", "handlers-longest-first", "llm-chat"}, Load: gpuLoad(3000, 1)},
		{Name: "large-longest-first", About: "the large file, its longest answers first", Ways: []string{"stoker"}, Load: longest},
	}
	byName := map[string]Scenario{}
	for _, s := range all {
		byName[s.Name] = s
	}
	return byName
}

// FindScenario returns a ready-made scenario. The error lists them.
func FindScenario(name string) (Scenario, error) {
	all := Scenarios()
	s, ok := all[name]
	if !ok {
		return s, fmt.Errorf("there is no scenario %q, only %s", name, strings.Join(slices.Sorted(maps.Keys(all)), ", "))
	}
	return s, nil
}

// way is one way to get a load answered.
type way struct {
	host    string // ways with the same host share a process
	about   string
	perFile bool // where starts count: a start for each file
	echo    bool // of the echo engine
	vllm    bool // of vLLM

	overHTTP bool // requests in flight are a choice
}

// The ways, by the names that people give.
var ways = map[string]way{
	"stoker":                 {host: "stoker", echo: true, vllm: true, about: "stoker, from the drop of complete files to synced results"},
	"stoker-settling":        {host: "stoker-settling", echo: true, vllm: true, about: "the same with the inbox's configured wait for files to settle"},
	"handlers":               {host: "loop", vllm: true, about: "a bare loop around vLLM's serving handlers, the limit of what stoker can reach"},
	"handlers-longest-first": {host: "loop", vllm: true, about: "the same, longest answers first"},
	"llm-chat":               {host: "llm", vllm: true, perFile: true, about: "LLM.chat, all files in one call"},
	"llm-chat-files":         {host: "llm", vllm: true, perFile: true, about: "LLM.chat, file after file"},
	"run-batch":              {host: "runbatch", vllm: true, perFile: true, about: "vllm run-batch as shipped, file after file"},
	"serve":                  {host: "server", vllm: true, overHTTP: true, about: "vllm serve and an HTTP client"},
	"server":                 {host: "against", echo: true, vllm: true, overHTTP: true, about: "the server that --against names"},
	"echo-loop":              {host: "echo", echo: true, about: "a bare loop around the echo worker"},
}

// Ways lists the ways, a line each.
func Ways() (lines []string) {
	for _, name := range slices.Sorted(maps.Keys(ways)) {
		lines = append(lines, fmt.Sprintf("%-22s  %s", name, ways[name].about))
	}
	return lines
}
