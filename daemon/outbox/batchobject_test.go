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
