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

// TestCanLoad asks the real Python for a library that every system has, and for one that none has.
func TestCanLoad(t *testing.T) {
	python, err := findBase(t.Context(), os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	if !canLoad(t.Context(), python, "libc.so.6") {
		t.Error("libc cannot be loaded")
	}
	if canLoad(t.Context(), python, "libnone.so.9") {
		t.Error("a library that is not there can be loaded")
	}
}
