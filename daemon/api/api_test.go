package api

import (
	"errors"
	"net/http/httptest"
	"testing"

	"stoker/engine"
)

// doorman answers whether it is ready, and nothing else.
type doorman struct {
	Daemon
	state engine.State
	err   error
}

func (d doorman) Ready() (engine.State, error) { return d.state, d.err }

func TestReady(t *testing.T) {
	for _, c := range []struct {
		d    doorman
		code int
		body string
	}{
		{doorman{state: engine.Loading}, 200, `{"ready":true,"engine":"loading"}`},
		{doorman{state: engine.Ready, err: errors.New("not mounted")}, 503, `{"ready":false,"reason":"not mounted","engine":"ready"}`},
	} {
		w := httptest.NewRecorder()
		routes(c.d).ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
		if w.Code != c.code || w.Body.String() != c.body {
			t.Errorf("answers %d %s, want %d %s", w.Code, w.Body, c.code, c.body)
		}
	}
}
