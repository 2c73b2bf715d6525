package batchfile

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// benchFile is 20,000 chat requests of about 960 bytes.
func benchFile() []byte {
	var b bytes.Buffer
	content := strings.Repeat("The quick brown fox jumps over the lazy dog. ", 16)
	for i := range 20_000 {
		fmt.Fprintf(&b, `{"custom_id":"request-%d","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[`+
			`{"role":"system","content":"You are helpful."},{"role":"user","content":"%s"}],"max_tokens":128,"temperature":0.7}}`+"\n", i, content)
	}
	return b.Bytes()
}

func BenchmarkSplit(b *testing.B) {
	in := benchFile()
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		eachLine(b, in, func(Line) {})
	}
}

// BenchmarkSplitAndParse also reports its time as a multiple of a bare search for newlines.
func BenchmarkSplitAndParse(b *testing.B) {
	in := benchFile()
	bare := bareSplit(in)
	var p Parser
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		eachLine(b, in, func(line Line) {
			if _, err := p.Parse(line.Text, line.Number); err != nil {
				b.Fatal(err)
			}
		})
	}
	b.ReportMetric(float64(b.Elapsed())/float64(b.N)/float64(bare), "x-bare-split")
}

// BenchmarkParseAgain reads lines that are known to be valid.
func BenchmarkParseAgain(b *testing.B) {
	in := benchFile()
	var p Parser
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		number := int64(0)
		for line := range bytes.Lines(in) {
			number++
			if _, err := p.ParseAgain(line, number); err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkAppendOutput(b *testing.B) {
	for _, form := range []Form{OpenAI, Simple} {
		b.Run(form.String(), func(b *testing.B) {
			req := Request{Ref: named("request-1", form)}
			body := []byte(chatBody)
			var (
				enc  Encoder
				line []byte
			)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				var err error
				if line, _, err = enc.AppendOutput(line[:0], &req, "batch_req_x_7", requestID, body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func eachLine(b *testing.B, in []byte, do func(Line)) {
	b.Helper()
	s := NewSplitter(bytes.NewReader(in), 16<<20)
	for {
		line, err := s.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			b.Fatal(err)
		}
		do(line)
	}
}

// bareSplit returns how long the search for newlines in memory takes, the best of ten.
func bareSplit(in []byte) time.Duration {
	best := time.Hour
	for range 10 {
		start := time.Now()
		for rest := in; len(rest) > 0; {
			rest = rest[bytes.IndexByte(rest, '\n')+1:]
		}
		best = min(best, time.Since(start))
	}
	return best
}
