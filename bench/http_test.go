package bench

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json"
)

// openAI is a server that answers as many tokens as a request asks for, and refuses some.
func openAI(t *testing.T, refuse string) (*httptest.Server, *atomic.Int64) {
	var most, now atomic.Int64
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"data":[]}`) })
	mux.HandleFunc("POST /v1/chat/completions", func(w http.ResponseWriter, r *http.Request) {
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer now.Add(-1)
		var b body
		if err := json.UnmarshalRead(r.Body, &b); err != nil || b.Model != "theirs" || r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "bad request", http.StatusBadRequest)
			return
		}
		if refuse != "" && strings.Contains(b.Messages[0].Content, refuse) {
			http.Error(w, "too busy", http.StatusTooManyRequests)
			return
		}
		fmt.Fprintf(w, `{"choices":[],"usage":{"completion_tokens":%d}}`, b.MaxTokens)
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s, &most
}

func TestServer(t *testing.T) {
	files := Load{Requests: 40, Files: 2, MeanTokens: 10, MaxTokens: 20, PromptWords: 2}.files()
	paths, err := write(files, t.TempDir(), "ours")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		refuse string
		failed int64
	}{{"", 0}, {"topic 3 of list 1", 1}} {
		theirs, most := openAI(t, c.refuse)
		s := &server{url: baseURL(theirs.URL + "/v1/"), model: "theirs", key: "secret", concurrent: 5}
		if _, err := s.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		got, err := s.run(t.Context(), "server", paths)
		s.stop()
		if err != nil {
			t.Fatal(err)
		}
		if got.Requests != 40 || got.Failed != c.failed || c.failed == 0 && got.Tokens != tokens(files) {
			t.Errorf("got %+v, of %d tokens", got, tokens(files))
		}
		if most.Load() > 5 {
			t.Errorf("%d requests at once", most.Load())
		}
	}
}

// A server that goes away ends the round with an error, not with fewer requests.
func TestServerGone(t *testing.T) {
	paths, err := write(Load{Requests: 4, Files: 1, MeanTokens: 10, MaxTokens: 20, PromptWords: 2}.files(), t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	theirs, _ := openAI(t, "")
	s := &server{url: theirs.URL, model: "theirs", key: "secret", concurrent: 2}
	if _, err := s.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if got, err := s.run(t.Context(), "server", paths); err == nil {
		t.Errorf("got %+v", got)
	}
	if _, err := s.start(t.Context()); err == nil {
		t.Error("a server that is not there is ready")
	}
}
