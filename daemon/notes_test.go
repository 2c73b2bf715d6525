package daemon

import (
	"testing"
	"time"

	"stoker/daemon/outbox"
)

func TestNotesAreDue(t *testing.T) {
	n := newNoter()
	start := time.Now()
	for _, c := range []struct {
		after time.Duration
		id    string
		runs  bool
		want  bool
	}{
		{0, "runs", true, false},
		{0, "waits", false, true},
		{firstNote - 1, "runs", true, false},
		{firstNote, "runs", true, true},
		{firstNote + 1, "runs", true, false},
		{2 * firstNote, "waits", true, false}, // it runs now
		{outbox.NotesEvery - 1, "waits", true, false},
		{outbox.NotesEvery, "waits", true, true},
		{outbox.NotesEvery, "runs", true, false},
		{outbox.NotesEvery + firstNote, "runs", true, true},
	} {
		if got := n.isDue(c.id, c.runs, start.Add(c.after)); got != c.want {
			t.Errorf("after %s the note of the batch that %s is due: %t", c.after, c.id, got)
		}
	}
}
