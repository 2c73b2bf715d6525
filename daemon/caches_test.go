package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCachesHaveAPlace(t *testing.T) {
	home, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o700); err != nil {
		t.Fatal(err)
	}
	vllm, triton, rest := "VLLM_CACHE_ROOT=/s/cache/vllm", "TRITON_CACHE_DIR=/s/cache/triton",
		[]string{"TORCHINDUCTOR_CACHE_DIR=/s/cache/inductor", "FLASHINFER_WORKSPACE_BASE=/s/cache/flashinfer"}
	all := append([]string{vllm, triton}, rest...)
	for _, c := range []struct {
		name string
		env  []string
		want []string // that is added
	}{
		{"a home", []string{"HOME=" + home}, nil},
		{"no home", nil, all},
		{"an empty home", []string{"HOME="}, all},
		{"a home that is not there", []string{"HOME=/nonexistent"}, all},
		{"a home that is a file", []string{"HOME=" + file}, all},
		{"a home of the engine's own", []string{"HOME=/nonexistent", "HOME=" + home}, nil},
		{"a folder for caches", []string{"XDG_CACHE_HOME=/x"}, append([]string{triton}, rest...)},
		{"a folder for vLLM's", []string{"VLLM_CACHE_ROOT=/x"}, append([]string{triton}, rest...)},
		{"a home of Triton's", []string{"TRITON_HOME=/x"}, append([]string{vllm}, rest...)},
		{"others chosen", []string{"TORCHINDUCTOR_CACHE_DIR=/x", "FLASHINFER_WORKSPACE_BASE=/y"}, []string{vllm, triton}},
	} {
		got := withCaches(c.env, "/s")
		if diff := cmp.Diff(append(append([]string(nil), c.env...), c.want...), got); diff != "" {
			t.Errorf("%s: environment (-want +got):\n%s", c.name, diff)
		}
	}
}
