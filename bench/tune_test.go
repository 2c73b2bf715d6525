package bench

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A sweep keeps what gains beyond noise, tries what comes later with it, passes over what does not run and what is in effect
// already, and says what to write into the configuration.
func TestTune(t *testing.T) {
	rate := func(args map[string]any) (Spread, error) {
		r := 100.0
		switch args["max_num_seqs"] {
		case 256:
			r *= 1.5
		case 512:
			r *= 1.51 // no more than noise beside 256
		case 1024:
			return Spread{}, errors.New("no memory")
		}
		if args["graphs"] == 512 && args["max_num_seqs"] == 256 {
			r *= 2
		}
		return Spread{r, r, r}, nil
	}
	var tried []string
	tuning := newTuning(small("a"))
	err := tuning.sweep(t.Context(), map[string]any{"graphs": 128}, []Candidate{
		{"max_num_seqs", []any{256, 512, 1000, 1024}}, {"graphs", []any{128, 512}}, {"late", []any{true}},
	}, func(_ context.Context, settings map[string]any) Trial {
		tried = append(tried, Trial{Settings: settings}.String())
		r, err := rate(settings)
		trial := Trial{Settings: settings, Rate: r, Loaded: Loaded{MaxNumSeqs: 1000}}
		if err != nil {
			trial.Failed = err.Error()
		}
		return trial
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"as configured", "max_num_seqs = 256", "max_num_seqs = 512", "max_num_seqs = 1024",
		"graphs = 512, max_num_seqs = 256", "graphs = 512, late = true, max_num_seqs = 256",
	}
	if diff := cmp.Diff(want, tried); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	var got bytes.Buffer
	if err := tuning.WriteTable(&got); err != nil {
		t.Fatal(err)
	}
	const table = `   100 tok/s  as configured (100–100)
   150 tok/s  max_num_seqs = 256 (150–150)
   151 tok/s  max_num_seqs = 512 (151–151)
      failed  max_num_seqs = 1024: no memory
   300 tok/s  graphs = 512, max_num_seqs = 256 (300–300)
   300 tok/s  graphs = 512, late = true, max_num_seqs = 256 (300–300)

3.00× the rate of the arguments in effect, with:

[engine.args]
graphs = 512
max_num_seqs = 256
`
	if diff := cmp.Diff(table, got.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Replicas share the batch that was found best, and are told of if they gain.
func TestTuneReplicas(t *testing.T) {
	for rate, want := range map[float64]string{
		150: "\n3.00× the rate of the arguments in effect, with:\n\n[engine]\nreplicas = 2\n\n[engine.args]\na = 1\nmax_num_seqs = 512\n",
		101: "\n2.00× the rate of the arguments in effect, with:\n\n[engine.args]\na = 1\n",
	} {
		tuning := newTuning(small("a"))
		tuning.Best, tuning.Gain, tuning.batch = map[string]any{"a": 1}, 2, 1024
		var tried []string
		err := tuning.replicate(t.Context(), 2, func(_ context.Context, replicas int, settings map[string]any) Trial {
			trial := Trial{Settings: settings, Replicas: replicas, Rate: Spread{100, 100, 100}}
			if replicas == 2 {
				trial.Rate = Spread{rate, rate, rate}
			}
			tried = append(tried, trial.String())
			return trial
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"replicas = 1, a = 1", "replicas = 2, a = 1, max_num_seqs = 512"}, tried); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		var got bytes.Buffer
		if err := tuning.WriteTable(&got); err != nil {
			t.Fatal(err)
		}
		if _, lines, _ := strings.Cut(got.String(), "512 ("); !strings.HasSuffix(lines, want) {
			t.Errorf("got\n%s", got.String())
		}
	}
}

// Arguments with which the engine does not even start leave nothing to compare with.
func TestTuneNeedsAnEngine(t *testing.T) {
	err := newTuning(small("a")).sweep(t.Context(), nil, Candidates(true), func(context.Context, map[string]any) Trial {
		return Trial{Failed: "no GPU"}
	})
	if err == nil {
		t.Error("no error")
	}
}
