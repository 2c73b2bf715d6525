//go:build real

package real

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestBench runs every way that stoker is compared with: each loads, and makes exactly the tokens that were asked for. What it
// costs, too, is told for each.
func TestBench(t *testing.T) {
	ways := []string{"stoker", "handlers", "handlers-longest-first", "llm-chat", "llm-chat-files", "run-batch", "serve"}
	r := runBench(t, "--way", strings.Join(ways, ","))
	var measured []string
	for _, s := range r.Series {
		measured = append(measured, s.Way)
		if len(s.Rounds) != 1 || s.Rounds[0].Requests != 12 || s.Rounds[0].Failed != 0 {
			t.Errorf("%s: rounds %+v", s.Way, s.Rounds)
			continue
		}
		round := s.Rounds[0]
		if round.Tokens != s.Tokens || s.Tokens == 0 {
			t.Errorf("%s made %d tokens, not %d", s.Way, round.Tokens, s.Tokens)
		}
		if round.Seconds <= 0 || s.Loads[0].Seconds <= 0 {
			t.Errorf("%s took %v s, its load %v s", s.Way, round.Seconds, s.Loads[0].Seconds)
		}
		if round.CPU.Front+round.CPU.Engine <= 0 {
			t.Errorf("%s took no time of a processor", s.Way)
		}
		if s.Way == "handlers" && (round.Steps == 0 || len(round.StepMS) == 0) {
			t.Errorf("the bare loop saw %d steps, of %v", round.Steps, round.StepMS)
		}
	}
	if !slices.Equal(measured, ways) {
		t.Errorf("measured %v", measured)
	}
}

// TestBenchStarts has a script start for each file, and stoker once.
func TestBenchStarts(t *testing.T) {
	r := runBench(t, "--scenario", "starts", "--warm-up", "0")
	starts := map[string]int{}
	for _, s := range r.Series {
		starts[s.Way] = len(s.Rounds[0].Starts)
	}
	if len(starts) != 2 || starts["stoker"] != 1 || starts["llm-chat-files"] != 2 {
		t.Errorf("starts: %v", starts)
	}
}

// TestTune sweeps over one argument; a value that vLLM refuses costs only itself.
func TestTune(t *testing.T) {
	r := runBench(t, "--tune", "--try", "max_num_seqs=0,8", "--warm-up", "0")
	trials := r.Tuning.Trials
	if len(trials) != 3 {
		t.Fatalf("trials: %+v", trials)
	}
	if trials[0].Failed != "" || trials[1].Failed == "" || trials[2].Failed != "" {
		t.Errorf("trials: %+v", trials)
	}
	if trials[2].Loaded.MaxNumSeqs != 8 {
		t.Errorf("max_num_seqs = 8 ran %d sequences", trials[2].Loaded.MaxNumSeqs)
	}
}

type benchReport struct {
	Series []struct {
		Way    string
		Tokens int64
		Loads  []struct{ Seconds float64 }
		Rounds []struct {
			Seconds                         float64
			Requests, Failed, Tokens, Steps int64
			CPU                             struct{ Front, Engine float64 } `json:"cpu_seconds"`
			StepMS                          map[string]any                  `json:"step_ms"`
			Starts                          []float64                       `json:"start_seconds"`
		}
	}
	Tuning struct {
		Trials []struct {
			Failed string
			Loaded struct {
				MaxNumSeqs int `json:"max_num_seqs"`
			}
		}
	}
}

// runBench runs `stoker bench` over two small files.
func runBench(t *testing.T, args ...string) (r benchReport) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bench")
	cmd := exec.Command(binary, append([]string{
		"--config", config, "bench", "--dir", dir, "--json", "--requests", "12", "--files", "2", "--mean", "8", "--max", "16", "--rounds", "1", "--passes", "1",
	}, args...)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return r
}
