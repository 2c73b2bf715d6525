package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// fakeSMI puts an nvidia-smi first on PATH that answers what the real one does, if it is asked about the right GPU.
func fakeSMI(t *testing.T, id, answer string) {
	dir := t.TempDir()
	script := "#!/bin/sh\ntest \"$1\" = --id=" + id + " || { echo 'No devices were found'; exit 6; }\ncat <<END\n" + answer + "END\n"
	if err := os.WriteFile(filepath.Join(dir, "nvidia-smi"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// Too little free memory is a wait: it says of how much and who has it, and ends by itself when there is enough.
func TestShortageIsAWait(t *testing.T) {
	fakeSMI(t, "GPU-2f1c", "428, 72198, python3\n77, [N/A], [Not Found]\n")
	gate := filepath.Join(t.TempDir(), "free")
	launch := script(t, `echo "$hello" >&4
[ -e `+gate+` ] && { echo "$ready" >&4; serve; exit; }
echo '{"type":"fatal","cause":"gpu_memory","permanent":false,"message":"Free memory on device cuda:1 …","hint":"lower it","memory":{"device":"cuda:1","need":78151677542,"free":3339439144,"total":84943715041}}' >&4; exit 1`)
	launch.Env = append(launch.Env, "CUDA_VISIBLE_DEVICES=0, GPU-2f1c")
	s := supervise(t, options(t, launch))
	st := waitFor(t, s, BackOff)
	want := "too little free memory on cuda:1: 72.78 GiB needed, 3.11 GiB of 79.11 GiB free; held by python3 (pid 428, 70.51 GiB), [Not Found] (pid 77)"
	if st.Reason != want || st.Hint != "lower it" {
		t.Errorf("reason and hint are %q, %q; want %q", st.Reason, st.Hint, want)
	}
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ready(t, s)
	if st := s.Status(); st.Shortage != nil || st.Reason != "" {
		t.Errorf("ready, but the shortage is %v, the reason %q", st.Shortage, st.Reason)
	}
}

func TestHoldersAreOfTheRightGPU(t *testing.T) {
	fakeSMI(t, "1", "9, 100, python\n")
	for env, want := range map[string]int{"": 1, "CUDA_VISIBLE_DEVICES=0,1": 1, "CUDA_VISIBLE_DEVICES=": 1, "CUDA_VISIBLE_DEVICES=1,0": 0} {
		if got := findHolders(t.Context(), "cuda:1", []string{env}); len(got) != want {
			t.Errorf("with %q: %v, want %d", env, got, want)
		}
	}
	if got := findHolders(t.Context(), "node 0", nil); got != nil {
		t.Errorf("the host's memory is held by %v", got)
	}
}

func TestParseHolders(t *testing.T) {
	want := []Holder{{PID: 7, Name: "a, b", Bytes: 5 << 20}}
	if diff := cmp.Diff(want, parseHolders("7, 5, a, b\n\nNo running processes found\nx, 1, y\n")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A death by SIGKILL accuses the kernel only if it has killed since.
func TestAccuse(t *testing.T) {
	s := &supervisor{}
	s.life.oomKills = s.o.Cgroup.OOMKills()
	if got := s.accuse("killed by SIGKILL", 9); !strings.Contains(got, "by a person, or") || s.state.Hint != "" {
		t.Errorf("without an OOM kill: %q, hint %q", got, s.state.Hint)
	}
	s.life.oomKills--
	if got := s.accuse("killed by SIGKILL", 9); !strings.HasSuffix(got, "the kernel killed it because memory ran out") || s.state.Hint == "" {
		t.Errorf("with one: %q, hint %q", got, s.state.Hint)
	}
	if got := s.accuse("killed by SIGTERM", 15); got != "killed by SIGTERM" {
		t.Errorf("by another signal: %q", got)
	}
}
