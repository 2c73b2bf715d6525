package engine

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"stoker/engine/echo"
)

// FuzzEcho gives the rehearsal engine any body: it answers each request once, with what the daemon can read. A message
// that is no JSON ends it, with the reason, unless only the body is none.
func FuzzEcho(f *testing.F) {
	for _, body := range []string{
		`{"messages":[{"role":"user","content":"hi"}]}`, `{"messages":[{"content":[{"text":"a"},{"text":null},{}]}],"n":3,"model":"m"}`,
		`{"prompt":"a\ud800\u0000","n":-1}`, `{"prompt":["a",1],"n":16385}`, `{"prompt":"x","prompt":5}`, `{"messages":5}`, `[]`, `{`, ``,
	} {
		f.Add([]byte(body), "/v1/chat/completions", true, int64(0))
		f.Add([]byte(body), "/v1/completions", false, int64(2))
	}
	f.Add([]byte(`{}`), "\xff\"", false, int64(1))
	f.Fuzz(func(t *testing.T, body []byte, url string, simple bool, failEvery int64) {
		if bytes.ContainsRune(body, '\n') {
			return // the body of a line has none
		}
		in := fmt.Appendf(nil, `{"type":"start","protocol":1,"served_names":["m"],"args":{"fail_every":%d}}`+"\n", failEvery)
		in = appendRequest(in, Request{Key: 7, URL: url, Simple: simple, Body: body, Line: 4})
		in = append(in, `{"type":"ping","seq":3}`+"\n"...)
		var out bytes.Buffer
		err := echo.Run(bytes.NewReader(in), &out)
		got := map[string]int{}
		for line := range bytes.Lines(out.Bytes()) {
			m, err := parseReply(bytes.TrimSuffix(line, []byte("\n")))
			if err != nil {
				t.Fatal(err)
			}
			got[m.Type]++
			if m.Type == "result" && (m.Key != 7 || m.Status < 200 || m.Status > 599 || !m.Body.IsValid()) {
				t.Fatalf("answered %q with %s", body, line)
			}
		}
		whole := jsontext.Value(body).IsValid(jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
		if whole && (err != nil || got["result"] != 1 || got["pong"] != 1) {
			t.Fatalf("%q: %v, %v", body, got, err)
		}
		if err != nil && got["fatal"] != 1 {
			t.Fatalf("%q: %v, %v", body, got, err)
		}
	})
}
