//go:build real

package real

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

var compilers = regexp.MustCompile(`^([\w.]+-)*(c\+\+|g\+\+|clang\+\+|cc|gcc|clang|icpx?)(-[\d.]+)?$`)

// pathWithoutCompilers makes a PATH with all that is on this one, but no compiler.
func pathWithoutCompilers(t *testing.T) string {
	dir := t.TempDir()
	for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
		entries, _ := os.ReadDir(folder) // PATH may name what is not there
		for _, e := range entries {
			if !compilers.MatchString(e.Name()) {
				os.Symlink(filepath.Join(folder, e.Name()), filepath.Join(dir, e.Name())) // the first of a name counts
			}
		}
	}
	return dir
}

// TestPoison has a request in the batch that brings vLLM down for real: where PyTorch may compile, but there is no
// compiler, vLLM's CPU engine dies of the first request for logprobs. It costs itself, and a bounded number of engines.
func TestPoison(t *testing.T) {
	t.Parallel()
	began := time.Now()
	const inFlight = 2
	s := newService(t, fmt.Sprintf("STOKER_ENGINE__IN_FLIGHT=%d", inFlight), "STOKER_ENGINE__ENV__TORCHDYNAMO_DISABLE=0", "PATH="+pathWithoutCompilers(t))
	lines, ids := requests("poison", 11)
	const at = 4
	lines = append(lines[:at:at], append([]string{`{"custom_id":"deadly","url":"/v1/completions","body":{"prompt":"One, two,","max_tokens":24,"logprobs":2}}`}, lines[at:]...)...)
	s.drop("poison.jsonl", lines)
	s.start()

	s.awaitEnded("poison")
	st, _ := s.status()
	bound := int(math.Ceil(math.Log2(inFlight))) + 3
	if st.Engine.Restarts == 0 || st.Engine.Restarts > bound {
		t.Errorf("%d restarts, want at most %d", st.Engine.Restarts, bound)
	}
	failures := s.results("poison.errors.jsonl")
	if e := failures["deadly"].Error; len(failures) != 1 || e == nil || e.Code != "engine_crashed" {
		t.Errorf("the errors are %+v", failures)
	}
	lost, doubled := s.outcome("poison", ids)
	redone := s.batchRedone("poison")
	s.verify()
	s.stop()
	seen, err := rig.ReadIsolation(s.log.Bytes())
	if err != nil {
		t.Error(err)
	}
	t.Logf("first death: %s", seen.Reason)
	if seen.Answered == 0 {
		t.Error("no other line was answered between the first death and the quarantine")
	}
	figures.Report(t, figures.Figures{
		Suite: "poison line on vLLM", Count: 1, Lost: lost, Doubled: doubled, Redone: seen.Redone, Seconds: int(time.Since(began).Seconds()),
		Note: fmt.Sprintf("%d restarts with %d in flight, bound %d; %d other lines answered between the first death and the quarantine; %d redone in all",
			st.Engine.Restarts, inFlight, bound, seen.Answered, redone),
	})
}
