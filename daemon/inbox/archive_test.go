package inbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
)

// stubborn is a filesystem on which claims' folders cannot be removed a few times.
type stubborn struct {
	durable.FS
	times int
}

func (s *stubborn) Remove(path string) error {
	if s.times > 0 && strings.Contains(path, ".processing") {
		s.times--
		return unix.EIO
	}
	return s.FS.Remove(path)
}

// A claim's folder is removed before its batch counts as archived, after which nobody would look at it again.
func TestClaimFolderGoes(t *testing.T) {
	bubble(t, func(r *rig) {
		disk := &stubborn{FS: durable.Local{}}
		r.o.FS = disk
		r.write("q/x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		disk.times = 3
		r.end(r.admitted[0])
		r.pass(5 * time.Minute)
		r.wantTree("archive", "done/q/x.jsonl")
		if left, err := os.ReadDir(r.path(".processing", r.store.Instance())); err != nil || len(left) > 0 {
			t.Errorf("claims are left: %v, %v", left, err)
		}
		if rec, err := r.store.Get(r.admitted[0].ID); err != nil || !rec.Archived {
			t.Errorf("not archived: %v", err)
		}
	})
}

// A duplicate that a crash kept from getting its note gets it from the next start, and nothing half written stays.
func TestSetAsideIsNoted(t *testing.T) {
	bubble(t, func(r *rig) {
		id := store.NewID()
		r.write(filepath.Join(".processing", r.store.Instance(), id, queueFile), "q")
		r.write(filepath.Join(".processing", r.store.Instance(), id, duplicateFile), `{"name":"x.jsonl","duplicate_of":"batch_1"}`)
		r.mkdir(filepath.Join(r.o.Archive, "duplicate", "q"))
		for _, name := range []string{"x.jsonl", "x.duplicate.json", "x~2.jsonl", ".x~2.duplicate.json.tmp"} {
			if err := os.WriteFile(filepath.Join(r.o.Archive, "duplicate", "q", name), []byte(line), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r.run()
		r.pass(time.Minute)
		r.wantTree("archive", "duplicate/q/x.duplicate.json", "duplicate/q/x.jsonl", "duplicate/q/x~2.duplicate.json", "duplicate/q/x~2.jsonl")
		if left, err := os.ReadDir(r.path(".processing", r.store.Instance())); err != nil || len(left) > 0 {
			t.Errorf("claims are left: %v, %v", left, err)
		}
	})
}
