package outbox

import (
	"testing"

	"github.com/go-json-experiment/json"

	"stoker/store"
)

// A clock that was set back while a batch ran makes no negative times of it.
func TestClockSetBack(t *testing.T) {
	b := &store.Batch{Meta: &store.Meta{ID: store.NewID()}, Record: &store.Record{InProgressAt: 2_000_000, FinalizingAt: 1_000_000}}
	text, err := batchObject(b, &store.Publication{State: store.Completed}, &store.Totals{CompletionTokens: 7})
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(text, &o); err != nil || o.Stoker.Seconds != 0 || o.Stoker.TokensPerSecond != 0 {
		t.Errorf("%v seconds, %v tokens a second: %v", o.Stoker.Seconds, o.Stoker.TokensPerSecond, err)
	}
}

// A name that is not UTF-8 is told byte for byte, so that the file can be found by it.
func TestNameThatIsNotUTF8(t *testing.T) {
	b := &store.Batch{Meta: &store.Meta{ID: store.NewID(), Input: store.Input{Name: "caf\xe9.jsonl"}}, Record: &store.Record{}}
	pub := &store.Publication{State: store.Completed, Name: "caf\xe9", Files: []store.PublishedFile{{Suffix: store.SuffixOutput}}}
	text, err := batchObject(b, pub, &store.Totals{})
	if err != nil {
		t.Fatal(err)
	}
	var o object
	if err := json.Unmarshal(text, &o); err != nil || o.Stoker.Name != "caf\xe9" || o.Stoker.Input.Name != "caf\xe9.jsonl" || o.Stoker.Output.Name != "caf\xe9.output.jsonl" {
		t.Errorf("the names are %q, %q, %q: %v", o.Stoker.Name, o.Stoker.Input.Name, o.Stoker.Output.Name, err)
	}
}
