package rig

import (
	"fmt"
	"strings"
)

// Line is one request of an input, and what must become of it.
type Line struct {
	Raw  string
	ID   string // "" if it cannot be read
	Text string // what the echo engine must answer
	Code string // the error that it must get instead; "" for none
}

// expected is the line's result, as the judge reads it.
func (l *Line) expected() string {
	if l.Code != "" {
		return l.ID + ": " + l.Code
	}
	return l.ID + ": " + l.Text
}

// Input is a batch file with what must become of it.
type Input struct {
	Name   string // with its queue
	Lines  []Line
	Copies int // how often it was dropped; 0: once
}

// Content is the whole file.
func (in *Input) Content() string {
	var b strings.Builder
	for _, l := range in.Lines {
		b.WriteString(l.Raw)
		b.WriteByte('\n')
	}
	return b.String()
}

// Good are n requests, in both forms by turns. Some bound their answers, to lengths in no order, so that they are not handed out
// in input order.
func Good(prefix string, n int) []Line {
	lines := make([]Line, 0, n)
	for i := range n {
		l := Line{ID: fmt.Sprintf("%s-%d", prefix, i), Text: fmt.Sprintf("%s says %d \"quoted\" ünïcode", prefix, i)}
		if i%2 == 0 {
			l.Raw = fmt.Sprintf(`{"custom_id":%q,"prompt":%q,"max_tokens":%d}`, l.ID, l.Text, 1+i*37%101)
		} else {
			l.Raw = fmt.Sprintf(`{"custom_id":%q,"method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[{"role":"user","content":%q}]}}`, l.ID, l.Text)
		}
		lines = append(lines, l)
	}
	return lines
}

// Bad are requests that cost themselves.
func Bad(prefix string) []Line {
	return []Line{
		{Raw: `{"custom_id":"` + prefix + `-cut","prompt":"x`, ID: prefix + "-cut", Code: "invalid_json"},
		{Raw: `{"custom_id":"` + prefix + `-get","method":"GET","url":"/v1/chat/completions","body":{"messages":[]}}`, ID: prefix + "-get", Code: "invalid_request"},
		{Raw: `nothing of the kind`, Code: "invalid_json"},
	}
}
