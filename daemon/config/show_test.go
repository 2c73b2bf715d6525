package config

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// shownConfig has one of everything that is shown in a way of its own.
func shownConfig(t *testing.T) *Loaded {
	t.Helper()
	document, err := os.ReadFile("testdata/show.toml")
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := load("/etc/stoker/config.toml", document, Options{
		Root:      "/srv/rehearsal",
		Overrides: map[string]string{"engine.model": "google/gemma-3-4b-it"},
	}, parseEnviron([]string{"STOKER_ENGINE__ENV__HF_TOKEN=hf_secret"}))
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func TestShow(t *testing.T) {
	loaded := shownConfig(t)
	for golden, write := range map[string]func(*strings.Builder) error{
		"testdata/show.golden.toml": func(b *strings.Builder) error { return loaded.WriteTOML(b) },
		"testdata/show.golden.json": func(b *strings.Builder) error { return loaded.WriteJSON(b) },
	} {
		var got strings.Builder
		if err := write(&got); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got.String()); diff != "" {
			t.Errorf("%s differs (-want +got):\n%s", golden, diff)
		}
		if strings.Contains(got.String(), "secret") {
			t.Errorf("a secret is shown:\n%s", got.String())
		}
	}
}

func TestWriteCheck(t *testing.T) {
	_, err := load("/etc/stoker/config.toml", []byte("[engine]\npyton = 1\n"), Options{}, nil)
	for want, report := range map[string]func(*strings.Builder) error{
		`{
  "schema_version": 1,
  "ok": true,
  "file": null,
  "errors": []
}
`: func(b *strings.Builder) error { return WriteCheck(b, &Loaded{}, nil) },
		`{
  "schema_version": 1,
  "ok": false,
  "file": "/etc/stoker/config.toml",
  "errors": [
    {
      "file": "/etc/stoker/config.toml",
      "line": 2,
      "column": 1,
      "key": "engine.pyton",
      "message": "unknown key",
      "hint": "did you mean ` + "`python`" + `?"
    }
  ]
}
`: func(b *strings.Builder) error { return WriteCheck(b, nil, err) },
	} {
		var got strings.Builder
		if err := report(&got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.String()); diff != "" {
			t.Errorf("report differs (-want +got):\n%s", diff)
		}
	}
	if All(errors.New("another")) != nil {
		t.Error("an error of another package was taken as one of this")
	}
}
