package daemon

import (
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"stoker/engine/environment"
)

// cacheDir holds in the state folder what vLLM and its compilers keep, where they have no other place.
const cacheDir = "cache"

// withCaches adds to a worker's environment where compiled code is kept. vLLM, Triton and FlashInfer keep it in the home, Inductor
// in /tmp. A service's user may have no home that it can write to: then each start compiles anew, or fails. What is set stays.
func withCaches(env []string, state string) []string {
	if isWritable(environment.Get(env, "HOME")) {
		return env
	}
	added := slices.Clone(env)
	for _, c := range []struct{ name, dir, instead string }{
		{"VLLM_CACHE_ROOT", "vllm", "XDG_CACHE_HOME"},
		{"TRITON_CACHE_DIR", "triton", "TRITON_HOME"},
		{"TORCHINDUCTOR_CACHE_DIR", "inductor", ""},
		{"FLASHINFER_WORKSPACE_BASE", "flashinfer", ""},
	} {
		if environment.Get(env, c.name) == "" && environment.Get(env, c.instead) == "" {
			added = append(added, c.name+"="+filepath.Join(state, cacheDir, c.dir))
		}
	}
	return added
}

// isWritable reports whether files can be made in a folder.
func isWritable(dir string) bool {
	return filepath.IsAbs(dir) && unix.Access(dir+"/.", unix.W_OK|unix.X_OK) == nil
}
