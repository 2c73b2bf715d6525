package pyenv

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"stoker/engine/environment"
)

func TestUVFilter(t *testing.T) {
	output := []string{
		"Using Python 3.11.2 environment at: x",
		"Resolved 164 packages in 1.02s",
		"Downloading torch (502.2MiB)",
		"Downloading big (1.2GiB)",
		"Downloading numpy (16.1MiB)",
		"Downloading tiny (512.1KiB)",
		"Downloaded numpy",
		"Downloaded torch",
		"Installed 164 packages in 388ms",
		"+ numpy==2.3.5",
	}
	want := []string{output[1], output[2], output[3], output[7], output[8]}
	var got []string
	f := newUVFilter()
	for _, line := range output {
		if f.worth(line) {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFindUVPassesOverOldOnes(t *testing.T) {
	old, tools := t.TempDir(), t.TempDir()
	script(t, filepath.Join(old, "uv"), "echo 'uv 0.4.30'\n")
	environ := []string{"PATH=" + old, "HOME=" + t.TempDir()}
	if got := findUV(t.Context(), environ, tools); got != "" {
		t.Errorf("findUV = %q, want none", got)
	}
	own := script(t, filepath.Join(tools, "uv"), "echo 'uv 0.13.9 (x86_64-unknown-linux-gnu)'\n")
	if got := findUV(t.Context(), environ, tools); got != own {
		t.Errorf("findUV = %q, want %q", got, own)
	}
}

func TestUVEnviron(t *testing.T) {
	got := uvEnviron([]string{"VIRTUAL_ENV=/a", "PYTHONPATH=/b", "UV_DEFAULT_INDEX=https://mirror"})
	for _, entry := range got {
		if strings.HasPrefix(entry, "VIRTUAL_ENV=") || strings.HasPrefix(entry, "PYTHONPATH=") {
			t.Errorf("uv sees %s", entry)
		}
	}
	if environment.Get(got, "UV_DEFAULT_INDEX") == "" || environment.Get(got, "UV_PYTHON_DOWNLOADS") != "never" {
		t.Errorf("uv sees %q", got)
	}
}

// index serves a package index with one wheel of uv.
func index(t *testing.T, program, hash string) *httptest.Server {
	t.Helper()
	var data bytes.Buffer
	archive := zip.NewWriter(&data)
	f, err := archive.Create("uv-" + uvVersion + ".data/scripts/uv")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(program)); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if hash == "" {
		sum := sha256.Sum256(data.Bytes())
		hash = hex.EncodeToString(sum[:])
	}
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[runtime.GOARCH]
	mux := http.NewServeMux()
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	mux.HandleFunc("/uv/", func(w http.ResponseWriter, r *http.Request) {
		files := []wheel{
			{Filename: "uv-0.1.0-py3-none-manylinux_2_17_" + arch + ".whl", URL: server.URL + "/old"},
			{Filename: "uv-" + uvVersion + "-py3-none-manylinux_2_17_" + arch + ".manylinux2014_" + arch + ".whl",
				URL: server.URL + "/wheel", Hashes: map[string]string{"sha256": hash}},
		}
		_ = json.MarshalWrite(w, map[string]any{"meta": map[string]string{"api-version": "1.0"}, "files": files})
	})
	mux.HandleFunc("/wheel", func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(data.Bytes()) })
	return server
}

func TestFetchUV(t *testing.T) {
	path := filepath.Join(t.TempDir(), "uv")
	if err := fetchUV(t.Context(), index(t, "the program", "").URL, path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "the program" || !isExecutable(path) {
		t.Errorf("%q, %v, executable %t", got, err, isExecutable(path))
	}
}

func TestFetchUVChecksTheHash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "uv")
	err := fetchUV(t.Context(), index(t, "the program", strings.Repeat("0", 64)).URL, path)
	if err == nil || !strings.Contains(err.Error(), "SHA-256") {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the program was written all the same")
	}
}
