package pyenv

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// pypi is the Python Package Index' simple API.
const pypi = "https://pypi.org/simple"

// maxWheel bounds what is read into memory; uv's wheels are 16 to 20 MB.
const maxWheel = 64 << 20

// wheel is a file of the index (PEP 691).
type wheel struct {
	Filename string            `json:"filename"`
	URL      string            `json:"url"`
	Hashes   map[string]string `json:"hashes"`
}

// fetchUV writes the uv program of this machine's wheel at index to path.
func fetchUV(ctx context.Context, index, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	listing, err := get(ctx, index+"/uv/", "application/vnd.pypi.simple.v1+json")
	if err != nil {
		return err
	}
	w, err := pickWheel(listing, runtime.GOARCH)
	if err != nil {
		return err
	}
	data, err := get(ctx, w.URL, "*/*")
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != w.Hashes["sha256"] {
		return fmt.Errorf("fetch %s: it does not match its SHA-256", w.URL)
	}
	return unzipUV(data, path)
}

// pickWheel finds the pinned uv for glibc on goarch: vLLM itself has no builds for another libc.
func pickWheel(listing []byte, goarch string) (wheel, error) {
	var project struct {
		Files []wheel `json:"files"`
	}
	if err := json.Unmarshal(listing, &project); err != nil {
		return wheel{}, fmt.Errorf("read the index's page of uv: %w", err)
	}
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[goarch]
	for _, w := range project.Files {
		if strings.HasPrefix(w.Filename, "uv-"+uvVersion+"-py3-none-manylinux_2_17_"+arch+".") {
			return w, nil
		}
	}
	return wheel{}, fmt.Errorf("the index has no uv %s for %s", uvVersion, goarch)
}

func get(ctx context.Context, url, accept string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("get %s: %s", url, resp.Status)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxWheel))
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", url, err)
	}
	return data, nil
}

// unzipUV writes the program in a uv wheel to path.
func unzipUV(data []byte, path string) error {
	archive, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return fmt.Errorf("open uv's wheel: %w", err)
	}
	program, err := archive.Open("uv-" + uvVersion + ".data/scripts/uv")
	if err != nil {
		return fmt.Errorf("open uv's wheel: %w", err)
	}
	defer program.Close()
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, program)
	return errors.Join(err, out.Close())
}
