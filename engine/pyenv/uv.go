package pyenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"stoker/engine/environment"
)

// minUVMinor is the oldest uv 0.x that does all that is asked of it here: --torch-backend came with 0.6.9, and 0.7.0 was
// run.
const minUVMinor = 7

// findUV looks for a uv that is new enough: on PATH, where its installer puts it, and where Setup put one. It returns ""
// if there is none.
func findUV(ctx context.Context, environ []string, tools string) string {
	all := onPath(environ, "uv")
	if home := environment.Get(environ, "HOME"); home != "" {
		all = append(all, filepath.Join(home, ".local", "bin", "uv"))
	}
	for _, uv := range append(all, filepath.Join(tools, "uv")) {
		out, err := exec.CommandContext(ctx, uv, "--version").Output() // uv 0.13.9 (x86_64-unknown-linux-gnu)
		if words := strings.Fields(string(out)); err == nil && len(words) > 1 {
			if major, minor := release(words[1]); major > 0 || minor >= minUVMinor {
				return uv
			}
		}
	}
	return ""
}

// uv runs uv.
type uv struct {
	path    string
	environ []string
	report  report
}

// quiet is u without a word of uv's: for installations too small to watch.
func (u uv) quiet() uv {
	u.report = report{out: io.Discard}
	return u
}

// uvEnviron is environ without what names another environment, and without what would let uv fetch a Python: that of
// the machine is the one that its administrator updates.
func uvEnviron(environ []string) []string {
	clean := slices.DeleteFunc(slices.Clone(environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		return slices.Contains([]string{"VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "PYTHONHOME", "UV_SYSTEM_PYTHON"}, name)
	})
	clean = append(clean, "UV_PYTHON_DOWNLOADS=never", "UV_NO_PROGRESS=1")
	if hasSystemCerts() {
		// Where a proxy opens TLS, its certificate is in the system's store and not in uv's own.
		clean = append(clean, "UV_SYSTEM_CERTS=1")
	}
	return clean
}

// hasSystemCerts reports whether the system has a store of certificates, which a minimal container lacks.
func hasSystemCerts() bool {
	debian, fedora := "/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"
	return slices.ContainsFunc([]string{debian, fedora}, func(store string) bool {
		info, err := os.Stat(store)
		return err == nil && info.Size() > 0
	})
}

// run runs uv with args and passes on what is worth reading of its output. Its errors match ErrInstall.
func (u uv) run(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, u.path, args...)
	cmd.Env = uvEnviron(u.environ)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	last, err := u.report.stream(cmd, newUVFilter())
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	failed := &Error{
		Kind:    ErrInstall,
		Message: fmt.Sprintf("uv %s: %v:\n  %s", strings.Join(args[:2], " "), err, strings.Join(last, "\n  ")),
	}
	if looksUnreachable(last) {
		failed.Hint = "the package index cannot be reached: behind a proxy set HTTPS_PROXY, for a mirror UV_DEFAULT_INDEX"
	}
	return failed
}

// looksUnreachable tells a network that fails from an installation that does, by uv's own words.
func looksUnreachable(output []string) bool {
	text := strings.Join(output, "\n")
	return slices.ContainsFunc([]string{"Failed to fetch", "error sending request", "dns error", "timed out"},
		func(words string) bool { return strings.Contains(text, words) })
}

// uvFilter decides which of uv's lines a person wants to read: the milestones, and downloads that take a while.
type uvFilter struct {
	slow map[string]bool // packages whose download was announced
}

func newUVFilter() *uvFilter { return &uvFilter{slow: make(map[string]bool)} }

// worth reports whether line is to be shown.
func (f *uvFilter) worth(line string) bool {
	words := strings.Fields(line)
	if len(words) < 2 {
		return false
	}
	switch words[0] {
	case "Downloading": // Downloading torch (502.2MiB)
		size := strings.TrimSuffix(strings.Trim(words[len(words)-1], "()"), "MiB")
		whole, _, _ := strings.Cut(size, ".")
		f.slow[words[1]] = strings.HasSuffix(size, "GiB") || len(whole) >= 3 && !strings.HasSuffix(size, "iB")
		return f.slow[words[1]]
	case "Downloaded":
		return f.slow[words[1]]
	case "Resolved", "Prepared", "Installed", "Bytecode", "warning:":
		return true
	}
	return false
}

// installUV puts uv into tools and returns its path. It asks python's pip first, since that may know a mirror or a
// proxy; Debian's Python comes without pip, so the wheel is fetched directly where there is none.
func installUV(ctx context.Context, python, tools string, environ []string, r report) (string, error) {
	if err := os.MkdirAll(tools, 0o755); err != nil {
		return "", fmt.Errorf("install uv: %w", err)
	}
	temp, err := os.MkdirTemp(tools, "uv-*.tmp")
	if err != nil {
		return "", fmt.Errorf("install uv: %w", err)
	}
	defer os.RemoveAll(temp)

	binary, pipErr := uvByPip(ctx, python, temp, environ, r)
	if pipErr != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		binary = filepath.Join(temp, "uv")
		if err := fetchUV(ctx, pypi, binary); err != nil {
			return "", &Error{
				Kind:    ErrInstall,
				Message: "install uv: no uv on PATH",
				Hint:    "install uv (https://docs.astral.sh/uv); behind a proxy set HTTPS_PROXY",
				Err:     errors.Join(pipErr, err),
			}
		}
	}
	installed := filepath.Join(tools, "uv")
	if err := os.Rename(binary, installed); err != nil {
		return "", fmt.Errorf("install uv: %w", err)
	}
	return installed, nil
}

// uvByPip has pip unpack uv below folder. PEP 668 ("externally managed") does not forbid that: pip exempts --target.
func uvByPip(ctx context.Context, python, folder string, environ []string, r report) (string, error) {
	cmd := exec.CommandContext(ctx, python, "-I", "-m", "pip", "install", "--quiet", "--no-input", "--no-deps",
		"--disable-pip-version-check", "--root-user-action=ignore", "--target", folder, "uv=="+uvVersion)
	cmd.Env = uvEnviron(environ)
	last, err := r.stream(cmd, nothing{})
	if err != nil {
		return "", fmt.Errorf("pip: %w", withLastLine(err, strings.Join(last, "\n")))
	}
	return filepath.Join(folder, "bin", "uv"), nil
}
