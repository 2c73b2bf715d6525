package pyenv

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFindBaseNeedsASharedOneForTheService(t *testing.T) {
	home := t.TempDir()
	if err := os.Chmod(home, 0o700); err != nil {
		t.Fatal(err)
	}
	python := fakePython(t, filepath.Join(home, "bin", "python3"), "3.12.1", "", "")
	environ := []string{"PATH=" + filepath.Dir(python)}
	if got, err := findBase(t.Context(), environ, false); err != nil || got.Path != python {
		t.Errorf("findBase = %s, %v", got, err)
	}
	if _, err := findBase(t.Context(), environ, true); !errors.Is(err, ErrNoPython) || !strings.Contains(err.Error(), "closed to other users") {
		t.Errorf("findBase for the service: %v", err)
	}
}
