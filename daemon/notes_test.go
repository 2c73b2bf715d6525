package daemon

import (
	"testing"
	"time"

	"stoker/daemon/outbox"
)

func TestNotesAreDue(t *testing.T) {
	n := newNoter()
	start := time.Now()
	n.due["runs"] = start.Add(firstNote)
	for _, c := range []struct {
		after time.Duration
		id    string
		want  bool
	}{
		{0, "runs", false},
		{0, "waits", true},
		{firstNote - 1, "runs", false},
		{firstNote, "runs", true},
		{firstNote + 1, "runs", false},
		{outbox.NotesEvery - 1, "waits", false},
		{outbox.NotesEvery, "waits", true},
		{outbox.NotesEvery, "runs", false},
		{outbox.NotesEvery + firstNote, "runs", true},
	} {
		if got := n.isDue(c.id, start.Add(c.after)); got != c.want {
			t.Errorf("after %s the note of the batch that %s is due: %t", c.after, c.id, got)
		}
	}
}
