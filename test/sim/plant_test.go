//go:build faults

package sim

import (
	"errors"
	"fmt"
	"regexp"
	"testing"

	"github.com/rs/zerolog"

	"stoker/test/figures"
)

// planted are the bugs that a simulated world can show. They are read from the environment, by the code that has them.
var planted = []string{
	"journal-not-synced", "checkpoint-first", "dir-not-synced", "claim-not-synced", "tail-not-cut", "adopt-nothing", "claim-forgotten",
}

// enough is how many worlds must do to show a planted bug.
const enough = 2000

var invariant = regexp.MustCompile(`\bI(10|[1-9])\b`)

// TestPlantedBugs proves that the simulation can fail, and names the invariant that each bug breaks.
func TestPlantedBugs(t *testing.T) {
	dir := memory(t)
	caught := 0
	for _, plant := range planted {
		t.Run(plant, func(t *testing.T) {
			t.Setenv("STOKER_PLANT", plant)
			err := provoke(t, dir)
			if err == nil || !invariant.MatchString(err.Error()) {
				t.Fatalf("%d worlds did not notice it, or do not name an invariant: %v", enough, err)
			}
			t.Log(err)
			caught++
		})
	}
	figures.Report(t, figures.Figures{Suite: "planted bugs that simulated worlds caught", Count: caught, Note: fmt.Sprintf("%d planted", len(planted))})
}

// provoke runs worlds until one breaks.
func provoke(t *testing.T, dir string) error {
	t.Helper()
	for seed := range uint64(enough) {
		if _, err := simulate(t, seed, dir, zerolog.Nop()); err != nil {
			return fmt.Errorf("seed %d: %w", seed, first(err))
		}
	}
	return nil
}

// first is the first of errors that were joined.
func first(err error) error {
	if all, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err); ok && len(all.Unwrap()) > 0 {
		return first(all.Unwrap()[0])
	}
	return err
}
