package batchfile

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// member is a parameter of a request that a rule looks at.
type member int

const (
	model member = iota
	stream
	prompt
	messages
	promptEmbeds
	input
	query
	queries
	documents
	items
	text1
	text2
	data1
	data2
	instructions
	maxTokens
	maxCompletionTokens
	maxOutputTokens
	previousResponse
	memberCount
)

func memberOf(name []byte) (member, bool) {
	switch string(name) {
	case "model":
		return model, true
	case "stream":
		return stream, true
	case "prompt":
		return prompt, true
	case "messages":
		return messages, true
	case "prompt_embeds":
		return promptEmbeds, true
	case "input":
		return input, true
	case "query":
		return query, true
	case "queries":
		return queries, true
	case "documents":
		return documents, true
	case "items":
		return items, true
	case "text_1":
		return text1, true
	case "text_2":
		return text2, true
	case "data_1":
		return data1, true
	case "data_2":
		return data2, true
	case "instructions":
		return instructions, true
	case "max_tokens":
		return maxTokens, true
	case "max_completion_tokens":
		return maxCompletionTokens, true
	case "max_output_tokens":
		return maxOutputTokens, true
	case "previous_response_id":
		return previousResponse, true
	}
	return 0, false
}

// params are the parameters of one request, as far as rules look at them.
type params [memberCount]value

// slot returns where a member's value is kept, nil if no rule looks at it.
func (p *params) slot(name []byte) *value {
	if m, ok := memberOf(name); ok {
		return &p[m]
	}
	return nil
}

// has reports whether all these members are there and not null.
func (p *params) has(all ...member) bool {
	for _, m := range all {
		if !p[m].given() {
			return false
		}
	}
	return true
}

// AnswerLimit is how long the parameters in an object let an answer get, in tokens; 0 if they do not say.
func AnswerLimit(object []byte) int64 {
	var p Parser
	var said params
	p.in.reset(object)
	if _, err := p.in.object(func(name []byte) error { return p.store(said.slot(name)) }); err != nil {
		return 0
	}
	return said.answerLimit()
}

// answerLimit is how long an answer may get, in tokens: the newest of the names that APIs have given it counts, as in vLLM. 0
// stands for no limit, and for one that the engine will refuse.
func (p *params) answerLimit() int64 {
	for _, m := range []member{maxCompletionTokens, maxOutputTokens, maxTokens} {
		if p[m].given() {
			n, _ := strconv.ParseInt(string(p[m].raw), 10, 64)
			return max(0, n)
		}
	}
	return 0
}

// fit reports whether the members that url cannot do without are there. What else a request needs, the engine says.
// The names are those of vLLM's request classes, of all its versions since 0.10.
func (p *params) fit(url string) bool {
	switch url {
	case ChatCompletions:
		return p.has(messages)
	case Completions:
		return p.has(prompt) || p.has(promptEmbeds)
	case Embeddings:
		return p.has(input) || p.has(messages)
	case Responses:
		return p.has(input)
	case Rerank:
		return p.has(query, documents)
	case Score:
		return p.has(text1, text2) || p.has(queries, documents) || p.has(queries, items) || p.has(query, documents) || p.has(data1, data2)
	}
	return false
}

// guessURL returns the URL that a body without one is meant for: "" if its members do not tell. An input alone is taken
// for an embedding; with a member that only the Responses API knows it is taken for that.
func (p *params) guessURL() string {
	switch {
	case p.fit(ChatCompletions):
		return ChatCompletions
	case p.fit(Completions):
		return Completions
	case p.fit(Responses) && (p.has(instructions) || p.has(maxOutputTokens) || p.has(previousResponse)):
		return Responses
	case p.fit(Embeddings):
		return Embeddings
	case p.fit(Rerank):
		return Rerank
	case p.fit(Score):
		return Score
	}
	return ""
}

// needs says in words what fit asks for.
func needs(url string) string {
	switch url {
	case ChatCompletions:
		return "messages"
	case Completions:
		return "prompt"
	case Rerank:
		return "query and documents"
	case Score:
		return "text_1 and text_2, or queries and documents"
	}
	return "input"
}

// check judges what holds for the parameters of both forms.
func (p *params) check() *LineError {
	if p.has(prompt, messages) {
		return invalid(later(p[prompt], p[messages]), "prompt and messages exclude each other")
	}
	if s := p[stream]; s.given() && s.kind() != jsontext.KindFalse {
		return invalid(s, "a batch does not stream: leave stream out")
	}
	if m := p[model]; m.given() && m.kind() != jsontext.KindString {
		return invalid(m, "model must be a string, not %s", kindName(m.kind()))
	}
	return nil
}

func later(a, b value) value {
	if a.at > b.at {
		return a
	}
	return b
}
