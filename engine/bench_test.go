package engine

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"stoker/engine/echo"
	"stoker/engine/protocol"
)

const benchText = "the quick brown fox jumps over the lazy dog "

// BenchmarkEcho is what the rehearsal engine itself costs, without pipes.
func BenchmarkEcho(b *testing.B) {
	body := fmt.Appendf(nil, `{"messages":[{"role":"user","content":"%s"}],"max_tokens":128}`, strings.Repeat(benchText, 4))
	in := []byte(`{"type":"start","protocol":1,"served_names":["*"],"args":{}}` + "\n")
	for key := range b.N {
		in = appendRequest(in, Request{Key: Key(key), URL: "/v1/chat/completions", Line: int64(key), Body: body})
	}
	b.SetBytes(int64(len(in) / b.N))
	b.ReportAllocs()
	b.ResetTimer()
	if err := echo.Run(bytes.NewReader(in), io.Discard); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkReplies is what reading answers costs.
func BenchmarkReplies(b *testing.B) {
	const answer = `{"type":"result","key":%d,"status":200,"body":{"id":"echo-1","object":"chat.completion","created":1790000000,"model":"echo","choices":` +
		`[{"index":0,"message":{"role":"assistant","content":"%s"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}}` + "\n"
	var text []byte
	for key := range b.N {
		text = fmt.Appendf(text, answer, key, strings.Repeat(benchText, 4))
	}
	b.SetBytes(int64(len(text) / b.N))
	b.ReportAllocs()
	b.ResetTimer()
	var p process
	in := protocol.NewReader(bytes.NewReader(text))
	for {
		lines, err := in.Lines()
		if err != nil {
			return
		}
		p.parse(lines)
	}
}
