package engine

import (
	"os"
	"path/filepath"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/store/durable"
)

// startsFile remembers in LogDir how long starts took. Nothing depends on it: one that is missing or cannot be read is no
// memory.
const startsFile = "starts.json"

// maxStarts is how many kinds of starts are remembered: some models, each with an engine's versions before and after an upgrade.
const maxStarts = 16

// startKind is what makes starts comparable.
type startKind struct {
	Engine  string `json:"engine"`
	Model   string `json:"model"`
	Version string `json:"version"` // of the engine
}

// pastStart is how long the last start of its kind took.
type pastStart struct {
	startKind
	Phases []Phase `json:"phases"`
}

// pastStarts are in the order in which they were, the latest first.
type pastStarts struct {
	Starts []pastStart `json:"starts"`
}

func readStarts(dir string) (past pastStarts) {
	text, err := os.ReadFile(filepath.Join(dir, startsFile))
	if err != nil || json.Unmarshal(text, &past) != nil {
		return pastStarts{}
	}
	return past
}

// phases returns those of the last start of a kind, nil if none is remembered.
func (p *pastStarts) phases(kind startKind) []Phase {
	for _, s := range p.Starts {
		if s.startKind == kind {
			return s.Phases
		}
	}
	return nil
}

// rememberStart writes down how long a start took, in place of the one of its kind before it.
func rememberStart(dir string, start pastStart) error {
	kept := []pastStart{start}
	for _, s := range readStarts(dir).Starts {
		if s.startKind != start.startKind && len(kept) < maxStarts {
			kept = append(kept, s)
		}
	}
	text, err := json.Marshal(pastStarts{kept}, jsontext.Multiline(true))
	if err != nil {
		return err
	}
	return durable.WriteFile(durable.Local{}, filepath.Join(dir, startsFile), append(text, '\n'), 0o600)
}
