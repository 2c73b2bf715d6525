package pyenv

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// basePythons are the names under which a Python to make the environment with is looked for: first the versions that
// most of vLLM's wheels are tested with, then what the system has.
func basePythons() []string {
	return []string{"python3.12", "python3.11", "python3", "python3.13", "python3.14"}
}

// findBase finds the Python that the environment is made with. Each candidate is asked, since a version manager's shim
// may have nothing behind it. If shared, other users must be able to run it: the service's user cannot reach into the
// superuser's home. Errors match ErrNoPython.
func findBase(ctx context.Context, environ []string, shared bool) (Interpreter, error) {
	var rejected []string
	for _, name := range basePythons() {
		for _, path := range onPath(environ, name) {
			found, err := Probe(ctx, path)
			switch {
			case ctx.Err() != nil:
				return Interpreter{}, ctx.Err()
			case err != nil:
				continue
			case !pythonFits(found.Version):
				rejected = append(rejected, path+" is "+found.Version)
			case shared && !ReachableByOthers(found.Prefix):
				rejected = append(rejected, found.Prefix+" is closed to other users")
			default:
				found.How = name + " on PATH"
				return found, nil
			}
		}
	}
	message := "find python >= 3.11, < 3.15: there is none on PATH"
	if rejected = slices.Compact(rejected); len(rejected) > 0 {
		message += " (" + strings.Join(rejected, ", ") + ")"
	}
	return Interpreter{}, &Error{Kind: ErrNoPython, Message: message,
		Hint: "install one (Debian, Ubuntu: apt-get install python3) or name it with --python"}
}

// pythonFits reports whether vLLM has builds for this version of Python.
func pythonFits(version string) bool {
	major, minor := release(version)
	return major == 3 && minor >= minPythonMinor && minor <= maxPythonMinor
}

// ReachableByOthers reports whether every folder down to path may be entered by everyone.
func ReachableByOthers(path string) bool {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return false
	}
	for ; path != filepath.Dir(path); path = filepath.Dir(path) {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm()&0o001 == 0 {
			return false
		}
	}
	return true
}

// hasHeaders reports whether the Python's C headers are there. Triton compiles against them when a model loads on a GPU.
func hasHeaders(i Interpreter) bool {
	major, minor, _ := strings.Cut(i.Version, ".")
	minor, _, _ = strings.Cut(minor, ".")
	_, err := os.Stat(filepath.Join(i.Base, "include", "python"+major+"."+minor, "Python.h"))
	return !errors.Is(err, fs.ErrNotExist)
}

// canLoad reports whether a Python's process finds a shared library of the system.
func canLoad(ctx context.Context, i Interpreter, library string) bool {
	return exec.CommandContext(ctx, i.Path, "-I", "-c", "import ctypes, sys; ctypes.CDLL(sys.argv[1])", library).Run() == nil
}
