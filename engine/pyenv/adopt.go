package pyenv

import (
	"context"
	"fmt"
	"path/filepath"
)

// named decides what the Python that the user named is for: if it has vLLM it is adopted as it is, else it is what a
// new environment is made with. Nothing is ever installed into an environment that Setup did not make.
func named(ctx context.Context, path string, wanted Device) (found Interpreter, adopt bool, err error) {
	found, err = Probe(ctx, path)
	if err != nil {
		return Interpreter{}, false, fmt.Errorf("--python: %w", err)
	}
	found.How = "--python"
	switch {
	case found.VLLM == "" && !pythonFits(found.Version):
		return found, false, &Error{Kind: ErrNoPython, Message: "--python: " + found.String() + " is not >= 3.11, < 3.15"}
	case found.VLLM == "":
		return found, false, nil
	case tooOld(found):
		return found, false, &Error{Kind: ErrNoVLLM,
			Message: fmt.Sprintf("--python: %s is older than vLLM 0.%d", found, minVLLMMinor),
			Hint:    "leave --python out to have a new environment made"}
	case wanted != "" && found.Device() != wanted:
		return found, false, &Error{Kind: ErrNoVLLM,
			Message: fmt.Sprintf("--python: %s is not built for %s", found, wanted),
			Hint:    "leave --python out to have a new environment made"}
	}
	return found, true, nil
}

// tooOld reports whether i's vLLM lacks the entry points that the worker uses.
func tooOld(i Interpreter) bool {
	major, minor := release(i.VLLM)
	return major == 0 && minor < minVLLMMinor
}

// fits reports whether i has a vLLM that may be adopted for device without being named.
func fits(i Interpreter, device Device) bool {
	return i.VLLM != "" && i.Device() == device && !tooOld(i)
}

// findExisting looks for an environment to adopt without being told: the active one, and a python3 that brings vLLM, as
// in vLLM's container images. If shared, other users must be able to run it.
func findExisting(ctx context.Context, environ []string, device Device, shared bool) (Interpreter, bool) {
	s := Search{Environ: environ, Interactive: true}
	for _, c := range s.candidates() {
		found, err := Probe(ctx, c.path)
		if err == nil && fits(found, device) && (!shared || ReachableByOthers(found.Prefix)) {
			found.How = c.how
			return found, true
		}
	}
	return Interpreter{}, false
}

// location is how the configuration names i: by the environment's folder if it is one.
func location(i Interpreter) string {
	if filepath.Join(i.Prefix, "bin", "python") == i.Path {
		return i.Prefix
	}
	return i.Path
}
