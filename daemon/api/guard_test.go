package api

import (
	"net/http/httptest"
	"testing"

	"stoker/engine"
)

func TestGuard(t *testing.T) {
	for _, c := range []struct {
		host, origin string
		code         int
	}{
		{"localhost", "", 200},
		{"localhost:8080", "http://127.0.0.1:3000", 200},
		{"[::1]:80", "http://localhost", 200},
		{"127.0.0.1", "https://[::1]:9", 200},
		{"localhost", "http://evil.example", 403},
		{"localhost", "http://localhost.evil.example", 403},
		{"localhost", "null", 403}, // a page without an origin of its own
		{"localhost", "http://%zz", 403},
		{"evil.example", "", 403}, // whose name leads here
		{"10.0.0.7", "", 403},
	} {
		r := httptest.NewRequest("GET", "/readyz", nil)
		r.Host = c.host
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		w := httptest.NewRecorder()
		guard(routes(doorman{state: engine.Ready})).ServeHTTP(w, r)
		if w.Code != c.code {
			t.Errorf("Host %s, Origin %q: %d %s, want %d", c.host, c.origin, w.Code, w.Body, c.code)
		}
	}
}

func TestUnknownPath(t *testing.T) {
	w := httptest.NewRecorder()
	routes(doorman{}).ServeHTTP(w, httptest.NewRequest("POST", "/nowhere", nil))
	want := `{"error":{"message":"there is no POST /nowhere","type":"invalid_request_error","param":null,"code":null}}`
	if w.Code != 404 || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
		t.Errorf("%d %s: %s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
}
