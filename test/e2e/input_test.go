package e2e

import (
	"fmt"
	"strings"
)

// line is one request of an input, and what must become of it.
type line struct {
	raw  string
	id   string // "" if it cannot be read
	text string // what the echo engine must answer
	code string // the error that it must get instead; "" for none
}

// input is a batch file with what must become of it.
type input struct {
	name   string // with its queue
	lines  []line
	copies int // how often it was dropped; 0: once
}

func (in *input) content() string {
	var b strings.Builder
	for _, l := range in.lines {
		b.WriteString(l.raw)
		b.WriteByte('\n')
	}
	return b.String()
}

// good are n requests, in both forms by turns.
func good(prefix string, n int) []line {
	lines := make([]line, 0, n)
	for i := range n {
		l := line{id: fmt.Sprintf("%s-%d", prefix, i), text: fmt.Sprintf("%s says %d \"quoted\" ünïcode", prefix, i)}
		if i%2 == 0 {
			l.raw = fmt.Sprintf(`{"custom_id":%q,"prompt":%q}`, l.id, l.text)
		} else {
			l.raw = fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":%q}]}}`, l.id, l.text)
		}
		lines = append(lines, l)
	}
	return lines
}

// bad are requests that cost themselves.
func bad(prefix string) []line {
	return []line{
		{raw: `{"custom_id":"` + prefix + `-cut","prompt":"x`, id: prefix + "-cut", code: "invalid_json"},
		{raw: `{"custom_id":"` + prefix + `-get","method":"GET","url":"/v1/chat/completions","body":{"messages":[]}}`, id: prefix + "-get", code: "invalid_request"},
		{raw: `nothing of the kind`, code: "invalid_json"},
	}
}

func concat(parts ...[]line) (all []line) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}
