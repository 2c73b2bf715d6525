package api

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"stoker/store/durable"
)

// recordFile is where the state folder has the socket of the daemon that runs, whose configuration may name another one by
// now. One that a daemon left when it was killed leads nowhere.
const recordFile = "listens-on"

// Record notes in a state folder which socket its daemon listens on.
func Record(state, socket string) error {
	if err := os.WriteFile(filepath.Join(state, recordFile), []byte(socket+"\n"), 0o600); err != nil {
		return fmt.Errorf("record socket: %w", err)
	}
	return nil
}

// Recorded is the socket that a state folder notes, "" if there is none that the caller can read.
func Recorded(state string) string {
	b, _ := durable.ReadFile(durable.Local{}, filepath.Join(state, recordFile))
	return strings.TrimSuffix(string(b), "\n")
}

// Unrecord is for a daemon that listens no more, and still has the state: the note may be the next one's. One that cannot be
// removed does no harm.
func Unrecord(state string) { os.Remove(filepath.Join(state, recordFile)) }
