package pyenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script writes an executable shell script.
func script(t *testing.T, path, body string) string {
	t.Helper()
	write(t, path, "#!/bin/sh\n"+body)
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// fakePython writes an interpreter that answers the probe as one of this version would; dist may be "".
func fakePython(t *testing.T, path, version, dist, vllm string) string {
	t.Helper()
	prefix := filepath.Dir(filepath.Dir(path))
	answer := fmt.Sprintf(`{"version":%q,"prefix":%q,"base":"/usr","dist":%q,"vllm":%q}`, version, prefix, dist, vllm)
	return script(t, path, "echo '"+answer+"'\n")
}

// realVenv makes a virtual environment with the machine's Python, and in it what an installed vLLM looks like to the
// probe.
func realVenv(t *testing.T, dist, vllm string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "venv")
	if out, err := exec.Command("python3", "-m", "venv", "--without-pip", dir).CombinedOutput(); err != nil {
		t.Fatalf("python3 -m venv: %v: %s", err, out)
	}
	if dist == "" {
		return dir
	}
	sites, err := filepath.Glob(filepath.Join(dir, "lib", "python3*", "site-packages"))
	if err != nil || len(sites) != 1 {
		t.Fatalf("site-packages: %v, %v", sites, err)
	}
	info := strings.ReplaceAll(dist, "-", "_") + "-" + vllm + ".dist-info"
	write(t, filepath.Join(sites[0], info, "METADATA"), "Metadata-Version: 2.1\nName: "+dist+"\nVersion: "+vllm+"\n")
	// Importing it would fail: the probe must not.
	write(t, filepath.Join(sites[0], "vllm", "__init__.py"), "raise SystemExit('imported')\n")
	return dir
}
