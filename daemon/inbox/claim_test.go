package inbox

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
	"stoker/test/faultfs"
)

// Claims on a share that is away are neither forgotten nor taken for taken away.
func TestShareGoesAndComesBack(t *testing.T) {
	bubble(t, func(r *rig) {
		away := func() {
			if err := os.Rename(r.path(), r.path()+".away"); err != nil {
				t.Fatal(err)
			}
		}
		back := func() {
			if err := os.Rename(r.path()+".away", r.path()); err != nil {
				t.Fatal(err)
			}
		}
		share := faultfs.New(durable.Local{})
		share.Set(failing(unix.ESTALE, func(op faultfs.Op, path string) bool {
			return op == faultfs.Open && strings.Contains(path, ".processing")
		}))
		r.o.FS = share
		r.write("q/x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		away()
		share.Set(nil)
		r.pass(10 * time.Minute)
		r.stop() // and a start without the share
		r.run()
		r.pass(10 * time.Minute)
		r.want()
		back()
		r.pass(2 * time.Minute)
		r.want("q/x.jsonl")
		away()
		r.end(r.admitted[0])
		r.pass(10 * time.Minute)
		if rec, err := r.store.Get(r.admitted[0].ID); err != nil || rec.Archived {
			t.Errorf("archived %t without the share: %v", rec.Archived, err)
		}
		back()
		r.pass(time.Minute)
		r.wantTree("archive", "done/q/x.jsonl")
		r.wantTree("inbox")
	})
}

// What a crash left claimed is admitted under the id that it was claimed with.
func TestRecoversClaims(t *testing.T) {
	bubble(t, func(r *rig) {
		id, queued, empty := store.NewID(), store.NewID(), store.NewID()
		root := r.processing()
		r.write(filepath.Join(root, id, "x.jsonl"), line)
		r.write(filepath.Join(root, queued, "x.jsonl"), line)
		r.write(filepath.Join(root, queued, queueFile), "q")
		r.write(filepath.Join(root, queued, ".."+queueFile+".tmp"), "half")
		r.write(filepath.Join(root, empty, ".."+queueFile+".tmp"), "half")
		r.write(filepath.Join(".processing", "ANOTHER", "batch_x", "x.jsonl"), line)
		r.mkdir(r.path(".processing", "ANOTHER", "batch_y"))
		r.run()
		r.pass(time.Second)
		r.want("x.jsonl", "q/x.jsonl")
		for _, rec := range r.admitted {
			if want := map[string]string{"": id, "q": queued}[rec.Queue]; rec.ID != want {
				t.Errorf("id is %s, want %s", rec.ID, want)
			}
		}
		if _, err := os.Lstat(r.path(root, empty)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the folder of an empty claim: %v", err)
		}
		if s := r.inbox.Status(); len(s.Foreign) != 1 || s.Foreign[0].Claims != 1 {
			t.Errorf("foreign claims are %+v", s.Foreign)
		}
		r.stop()
		r.run() // does not admit again what is a batch by now
		r.pass(time.Second)
		r.want("x.jsonl", "q/x.jsonl")
	})
}

// A file that comes back from a power cut under its old name too is taken once.
func TestClaimWithBothNames(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("q/x.jsonl", line)
		dir := r.processing(store.NewID())
		r.write(filepath.Join(dir, queueFile), "q")
		if err := os.Link(r.path("q/x.jsonl"), r.path(dir, "x.jsonl")); err != nil {
			t.Fatal(err)
		}
		r.run()
		r.pass(time.Minute)
		r.end(r.admitted[0])
		r.pass(time.Minute)
		r.want("q/x.jsonl")
		r.wantTree("archive", "done/q/x.jsonl")
		r.wantTree("inbox")
	})
}

func TestClaimTakenAway(t *testing.T) {
	bubble(t, func(r *rig) {
		r.o.NameTaken = func(string, store.FileName) (bool, error) { return false, errors.New("no outbox") }
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		os.Remove(r.claimed("x.jsonl"))
		r.pass(5 * time.Minute)
		if s := r.inbox.Status(); len(s.Waiting) != 0 {
			t.Errorf("waiting are %+v", s.Waiting)
		}
	})
}

func TestArchive(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		for _, text := range []string{line, line + line, "bad\n"} {
			r.write("q/x.JSONL", text)
			r.pass(10 * time.Second)
			r.end(r.admitted[len(r.admitted)-1])
			r.pass(time.Second)
		}
		r.wantTree("archive", "done/q/x.JSONL", "done/q/x~2.JSONL", "failed/q/x.JSONL")
		r.wantTree("inbox")
		for _, rec := range r.admitted {
			if rec, err := r.store.Get(rec.ID); err != nil || !rec.Archived {
				t.Errorf("%s is archived: %t, %v", rec.ID, rec.Archived, err)
			}
		}
	})
}

func TestArchiveIsTriedAgain(t *testing.T) {
	bubble(t, func(r *rig) {
		if err := os.WriteFile(r.o.Archive, nil, 0o600); err != nil { // where the folder should be
			t.Fatal(err)
		}
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		r.end(r.admitted[0])
		r.stop() // the next life goes on with it
		r.run()
		r.pass(5 * time.Second)
		os.Remove(r.o.Archive)
		r.pass(5 * time.Second)
		r.wantTree("archive", "done/x.jsonl")
	})
}

func TestDuplicates(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		r.drop("x.jsonl")
		r.write("x.jsonl", line)
		r.write("q/x.jsonl", line) // another queue, another batch
		r.pass(5 * time.Second)
		r.want("x.jsonl", "q/x.jsonl")
		r.wantTree("archive", "duplicate/x.duplicate.json", "duplicate/x.jsonl", "duplicate/x~2.duplicate.json", "duplicate/x~2.jsonl")
		note, err := os.ReadFile(filepath.Join(r.o.Archive, "duplicate", "x~2.duplicate.json"))
		if err != nil || !strings.Contains(string(note), r.admitted[0].ID) {
			t.Errorf("note is %s: %v", note, err)
		}
		r.end(r.admitted[0])
		r.write("x.jsonl", line) // its batch has ended: it runs again
		r.pass(5 * time.Second)
		r.want("x.jsonl", "q/x.jsonl", "x.jsonl")
	})
}

func TestDuplicatesAreSkipped(t *testing.T) {
	bubble(t, func(r *rig) {
		r.o.SkipEnded = true
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		r.end(r.admitted[0])
		r.drop("x.jsonl")
		r.want("x.jsonl")
		r.wantTree("archive", "done/x.jsonl", "duplicate/x.duplicate.json", "duplicate/x.jsonl")
	})
}

// A queue's folder that goes away while its file is claimed, whatever has its name then, keeps nothing waiting.
func TestQueueReplacedWhileClaimed(t *testing.T) {
	for what, replace := range map[string]func(path string) error{
		"nothing": func(string) error { return nil },
		"a file":  func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"a link":  func(path string) error { return os.Symlink("/tmp", path) },
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(r *rig) {
				var once sync.Once
				swapping := faultfs.New(durable.Beneath{r.path()})
				swapping.Set(func(op faultfs.Op, path string) error {
					if op == faultfs.SyncDir && path == r.path("q") {
						once.Do(func() {
							if err := errors.Join(os.Remove(path), replace(path)); err != nil {
								t.Error(err)
							}
						})
					}
					return nil
				})
				r.o.FS = swapping
				r.write("q/x.jsonl", line)
				r.run()
				r.pass(10 * time.Second)
				r.want("q/x.jsonl")
			})
		})
	}
}

// A duplicate that cannot be set aside waits, without being copied again and again.
func TestDuplicateCannotBeSetAside(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		if err := os.WriteFile(r.o.Archive, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		r.drop("x.jsonl")
		r.wantReason("x.jsonl", "not a directory")
		r.pass(time.Hour)
		os.Remove(r.o.Archive)
		r.pass(2 * time.Minute)
		r.want("x.jsonl")
		r.wantTree("archive", "duplicate/x.duplicate.json", "duplicate/x.jsonl")
	})
}

func TestChanged(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		rec := r.admitted[0]
		if r.inbox.Changed(rec) {
			t.Error("unchanged, but reported")
		}
		r.append(r.claimed("x.jsonl"), line)
		if !r.inbox.Changed(rec) {
			t.Error("changed, but not reported")
		}
		os.Remove(r.claimed("x.jsonl"))
		if r.inbox.Changed(rec) {
			t.Error("taken away, and reported as changed")
		}
	})
}

// A copy to another filesystem is known again after a crash, also where the archive has moved meanwhile.
func TestCopied(t *testing.T) {
	r := newRig(t)
	dir := r.processing(store.NewID())
	r.write(filepath.Join(dir, "x.jsonl"), line)
	copied := filepath.Join(r.o.Archive, "done", "x.jsonl")
	r.mkdir(filepath.Dir(copied))
	if err := os.WriteFile(copied, []byte(line), 0o644); err != nil {
		t.Fatal(err)
	}
	for named, want := range map[string]string{"done/x.jsonl": copied, "done/y.jsonl": "", "/elsewhere/done/x.jsonl": "", "../x.jsonl": ""} {
		r.write(filepath.Join(dir, movedFile), named)
		if got, err := New(r.o).copied(r.path(dir, "x.jsonl"), filepath.Dir(copied)); got != want || err != nil {
			t.Errorf("%s: %q, %v; want %q", named, got, err, want)
		}
	}
}

func TestNumbered(t *testing.T) {
	long := strings.Repeat("é", 124)
	for _, c := range []struct {
		name string
		n    int
		want string
	}{
		{"x.jsonl", 1, "x.jsonl"}, {"x.jsonl", 2, "x~2.jsonl"}, {"x.JSONL.gz", 3, "x~3.JSONL.gz"}, {"İ\xff.jsonl", 2, "İ\xff~2.jsonl"},
		{"a.jsonl.b.jsonl", 2, "a.jsonl.b~2.jsonl"}, {long + ".jsonl", 2, long[:232] + "~2.jsonl"},
	} {
		if got := numbered(c.name, c.n); got != c.want || len(got) > 255 {
			t.Errorf("%q, %d: %q of %d bytes, want %q", c.name, c.n, got, len(got), c.want)
		}
	}
}
