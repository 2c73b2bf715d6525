package pyenv

import (
	"os"
	"path/filepath"
	"testing"
)

func TestDemoModelIsPublishedWhole(t *testing.T) {
	models := t.TempDir()
	made := filepath.Join(models, ".tmp", "model")
	for _, name := range []string{"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} {
		write(t, filepath.Join(made, name), "{}")
	}
	if err := checkModel(made); err == nil {
		t.Error("a model without chat template passed")
	}
	write(t, filepath.Join(made, "chat_template.jinja"), "x")
	if err := os.Chmod(filepath.Join(made, "model.safetensors"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(demoFolder(models), "config.json"), "half a model")
	if err := publishModel(made, demoFolder(models)); err != nil {
		t.Fatal(err)
	}
	if err := checkModel(demoFolder(models)); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(filepath.Join(demoFolder(models), "model.safetensors"))
	if err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("%v, %v: the service's user must be able to read it", info.Mode(), err)
	}
}
