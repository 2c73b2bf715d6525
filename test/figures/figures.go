// Package figures carries what a suite counted to `make torture`, which prints it all as one table.
package figures

import (
	"fmt"
	"os"
	"testing"

	"github.com/go-json-experiment/json"
)

// FileVar names the environment variable that holds the file to which figures are appended, as NDJSON.
const FileVar = "STOKER_FIGURES"

// Figures is one row of the table.
type Figures struct {
	Suite   string `json:"suite"`            // what was done to stoker: "kill points", "power cuts on ext4", …
	Count   int    `json:"count"`            // how often
	Lost    int    `json:"lost"`             // lines without a result in the end
	Doubled int    `json:"doubled"`          // lines with more than one
	Redone  int    `json:"redone"`           // the most lines that ran again after one fault
	Note    string `json:"note,omitzero"`    // what else is worth a column of words
	Seconds int    `json:"seconds,omitzero"` // how long the suite took
}

// Report logs a row and hands it on, if anybody asked for it. A suite that failed reports too: its figures say how.
func Report(t testing.TB, f Figures) {
	t.Helper()
	row, err := json.Marshal(f)
	if err != nil {
		t.Errorf("encode figures: %v", err)
		return
	}
	t.Logf("figures: %s", row)
	path := os.Getenv(FileVar)
	if path == "" {
		return
	}
	if err := appendLine(path, row); err != nil {
		t.Errorf("report figures: %v", err)
	}
}

func appendLine(path string, row []byte) error {
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(out, "%s\n", row); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
