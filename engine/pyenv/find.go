package pyenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"stoker/engine/environment"
)

// setupHint is what to do where no vLLM is found.
const setupHint = "run `stoker setup`, with sudo for the system's service, or name the Python that has vLLM in the configuration: [engine] python = \"…\""

// Search says where FindPython looks. Empty members are passed over.
type Search struct {
	Configured  string   // engine.python: an interpreter or a virtual environment's folder
	ConfigDir   string   // the folder of the configuration file, which may hold a .venv
	SetupVenv   string   // where Setup puts the environment, see Places
	Environ     []string // as os.Environ: VIRTUAL_ENV and PATH
	Interactive bool     // a person started stoker from a shell, whose VIRTUAL_ENV counts; a service has none
}

// candidate is a Python that may be the one.
type candidate struct {
	path string
	how  string
}

// FindPython returns the interpreter that the worker runs in: the configured one, else the first that has vLLM of the
// active virtual environment, .venv beside the configuration, the one that Setup made, and python3 on PATH.
//
// The configured one is not replaced by another if it is unfit. Errors are *Error and match ErrNoPython or ErrNoVLLM.
func FindPython(ctx context.Context, s Search) (Interpreter, error) {
	if s.Configured != "" {
		return configured(ctx, s.Configured)
	}
	var seen []string
	var busy *Error // an interpreter that may be the one at another time
	for _, c := range s.candidates() {
		found, err := Probe(ctx, c.path)
		if err != nil {
			if unfit, ok := errors.AsType[*Error](err); ok && IsTemporary(unfit) && busy == nil {
				busy = unfit
			}
			continue // a .venv that is not there, a shim without a Python behind it: the next one
		}
		found.How = c.how
		if found.VLLM != "" {
			return found, nil
		}
		seen = append(seen, found.Path)
	}
	if ctx.Err() != nil {
		return Interpreter{}, ctx.Err()
	}
	if busy != nil {
		return Interpreter{}, busy
	}
	if len(seen) == 0 {
		return Interpreter{}, &Error{Kind: ErrNoPython, Message: "find python: there is none on PATH", Hint: setupHint}
	}
	return Interpreter{}, &Error{
		Kind:    ErrNoVLLM,
		Message: "find python with vLLM: there is none in " + strings.Join(seen, ", "),
		Hint:    setupHint,
	}
}

func configured(ctx context.Context, path string) (Interpreter, error) {
	found, err := Probe(ctx, path)
	if err != nil {
		return Interpreter{}, fmt.Errorf("engine.python: %w", err)
	}
	found.How = "engine.python"
	if found.VLLM == "" {
		return Interpreter{}, &Error{
			Kind:    ErrNoVLLM,
			Message: "engine.python: " + found.Path + " (Python " + found.Version + ") has no vLLM",
			Hint:    setupHint,
		}
	}
	return found, nil
}

func (s Search) candidates() []candidate {
	var all []candidate
	add := func(path, how string) { all = append(all, candidate{path, how}) }
	if venv := environment.Get(s.Environ, "VIRTUAL_ENV"); venv != "" && s.Interactive {
		add(venv, "the active virtual environment")
	}
	if s.ConfigDir != "" {
		add(filepath.Join(s.ConfigDir, ".venv"), ".venv beside the configuration")
	}
	if s.SetupVenv != "" {
		add(s.SetupVenv, "made by stoker setup")
	}
	for _, python := range onPath(s.Environ, "python3") {
		add(python, "python3 on PATH")
	}
	return all
}

// onPath lists the executables called name, in PATH's order. There may be several: a version manager's shim comes
// first and may have nothing behind it.
func onPath(environ []string, name string) []string {
	var found []string
	for _, dir := range filepath.SplitList(environment.Get(environ, "PATH")) {
		// Relative entries are ignored, as os/exec does: they mean whatever folder one happens to stand in.
		if path := filepath.Join(dir, name); filepath.IsAbs(dir) && isExecutable(path) {
			found = append(found, path)
		}
	}
	return found
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}
