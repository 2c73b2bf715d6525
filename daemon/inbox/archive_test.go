package inbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
	"stoker/test/faultfs"
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
		r.wantNoClaims()
		if rec, err := r.store.Get(r.admitted[0].ID); err != nil || !rec.Archived {
			t.Errorf("not archived: %v", err)
		}
	})
}

// Duplicates of one name that a crash kept from getting their notes get them from the next start, and nothing half written
// stays.
func TestSetAsideIsNoted(t *testing.T) {
	bubble(t, func(r *rig) {
		for n, as := range []string{"x.jsonl", "x~3.jsonl"} { // somebody took x~2.jsonl, and left its note
			id := store.NewID()
			r.write(r.processing(id, queueFile), "q")
			r.write(r.processing(id, duplicateFile), fmt.Sprintf(`{"name":"x.jsonl","queue":"q","duplicate_of":"batch_%d","as":%q}`, n, as))
		}
		for _, name := range []string{"x.jsonl", "x~2.duplicate.json", "x~3.jsonl", ".x~3.duplicate.json.tmp"} {
			r.write("../archive/duplicate/q/"+name, line)
		}
		r.run()
		r.pass(time.Minute)
		r.wantTree("archive", "duplicate/q/x.duplicate.json", "duplicate/q/x.jsonl", "duplicate/q/x~2.duplicate.json", "duplicate/q/x~3.duplicate.json", "duplicate/q/x~3.jsonl")
		for note, of := range map[string]string{"x": "batch_0", "x~3": "batch_1"} {
			if b, err := os.ReadFile(filepath.Join(r.o.Archive, "duplicate", "q", note+".duplicate.json")); err != nil || !strings.Contains(string(b), of) {
				t.Errorf("the note of %s is %s, %v", note, b, err)
			}
		}
		r.wantNoClaims()
	})
}

func (r *rig) wantNoClaims() {
	r.t.Helper()
	if left, err := os.ReadDir(r.path(r.processing())); err != nil || len(left) > 0 {
		r.t.Errorf("claims are left: %v, %v", left, err)
	}
}

// Duplicates of one name that could be moved, but not noted, before a crash: each gets its note, though which is whose is
// not to be told by what lies in the archive.
func TestTwinsAreNotedAfterACrash(t *testing.T) {
	bubble(t, func(r *rig) {
		disk := r.faulty()
		disk.Set(failing(unix.ENOSPC, func(op faultfs.Op, path string) bool {
			return op == faultfs.Create && strings.HasSuffix(path, ".duplicate.json.tmp")
		}))
		r.run()
		for range 3 {
			r.drop("x.jsonl")
		}
		r.stop()
		r.wantTree("archive", "duplicate/x.jsonl", "duplicate/x~2.jsonl")
		disk.Set(nil)
		r.run()
		r.pass(time.Minute)
		r.wantTree("archive", "duplicate/x.duplicate.json", "duplicate/x.jsonl", "duplicate/x~2.duplicate.json", "duplicate/x~2.jsonl")
	})
}

// A duplicate's note whose name was not synced when a crash came is not taken for durable: the claim that tells of it is
// kept until it is.
func TestNoteIsSyncedBeforeItsClaimGoes(t *testing.T) {
	bubble(t, func(r *rig) {
		dir := filepath.Join(r.o.Archive, "duplicate")
		disk := r.faulty()
		disk.Set(failing(unix.EIO, func(op faultfs.Op, path string) bool {
			_, err := os.Lstat(filepath.Join(dir, "x.duplicate.json"))
			return op == faultfs.SyncDir && path == dir && err == nil
		}))
		r.run()
		for range 2 {
			r.drop("x.jsonl")
		}
		r.stop()
		r.wantTree("archive", "duplicate/x.duplicate.json", "duplicate/x.jsonl")
		var synced, gone atomic.Bool
		disk.Set(func(op faultfs.Op, path string) error {
			switch {
			case op == faultfs.SyncDir && path == dir:
				synced.Store(true)
			case op == faultfs.Remove && store.ValidID(filepath.Base(path)):
				gone.Store(true)
				if !synced.Load() {
					t.Error("the claim goes, and the note's name is not durable")
				}
			}
			return nil
		})
		r.run()
		r.pass(time.Minute)
		r.wantTree("archive", "duplicate/x.duplicate.json", "duplicate/x.jsonl")
		if !gone.Load() {
			t.Error("the claim stays")
		}
	})
}

// An input that cannot be archived is tried again as the settings say that are in effect.
func TestArchiveIsConfigured(t *testing.T) {
	bubble(t, func(r *rig) {
		disk := r.faulty()
		disk.Set(failing(unix.EIO, func(_ faultfs.Op, path string) bool {
			return strings.HasPrefix(path, r.o.Archive)
		}))
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		r.end(r.admitted[0])
		r.pass(5*time.Minute + maxArchivePause/2) // by now the pauses have grown as long as they get
		s := r.o.Settings
		s.PollEvery = time.Second
		r.inbox.Configure(s)
		r.pass(s.PollEvery / 2)
		disk.Set(nil)
		r.pass(s.PollEvery)
		r.wantTree("archive", "done/x.jsonl")
	})
}

// A duplicate whose copy was on another filesystem when a crash came, and whose original was still there, is set aside, not
// run, also if its batch has ended meanwhile.
func TestCopiedAsideIsSetAside(t *testing.T) {
	bubble(t, func(r *rig) {
		id := store.NewID()
		for name, text := range map[string]string{
			queueFile: "q", duplicateFile: `{"name":"x.jsonl","queue":"q","duplicate_of":"batch_1","as":"x.jsonl"}`, movedFile: "duplicate/q/x.jsonl", "x.jsonl": line,
		} {
			r.write(r.processing(id, name), text)
		}
		r.write("../archive/duplicate/q/x.jsonl", line)
		r.run()
		r.pass(time.Minute)
		r.want()
		r.wantTree("archive", "duplicate/q/x.duplicate.json", "duplicate/q/x.jsonl")
		r.wantTree("inbox")
	})
}

// Two inputs of one name and the same bytes that are copied into the archive at a time both get there, also if one of the
// copies has to be made again.
func TestTwinsAreArchivedAtOnce(t *testing.T) {
	bubble(t, func(r *rig) {
		var away atomic.Bool
		away.Store(true)
		var mu sync.Mutex
		copies := map[string]int{}
		disk := r.across()
		disk.Set(func(op faultfs.Op, path string) error {
			switch {
			case !strings.HasPrefix(path, r.o.Archive):
			case away.Load():
				return unix.EIO
			case op == faultfs.Create:
				time.Sleep(time.Millisecond) // so that the other one looks at the names meanwhile
				mu.Lock()
				defer mu.Unlock()
				if copies[path]++; copies[path] == 2 {
					return unix.ENOSPC
				}
			}
			return nil
		})
		r.run()
		for n := range 2 {
			r.drop("x.jsonl")
			r.end(r.admitted[n])
			r.pass(time.Second)
		}
		away.Store(false)
		r.pass(time.Minute)
		r.wantTree("archive", "done/x.jsonl", "done/x~2.jsonl")
	})
}

// An input that had noted a name for its copy on another filesystem, and did not give it yet, does not take a twin's for its
// own, also after a crash.
func TestTwinTakesNoNotedName(t *testing.T) {
	for title, crash := range map[string]bool{"failed": false, "crashed": true} {
		t.Run(title, func(t *testing.T) {
			bubble(t, func(r *rig) {
				disk := r.across()
				r.run()
				r.drop("x.jsonl")
				first := r.admitted[0]
				disk.Set(failing(unix.EIO, func(op faultfs.Op, path string) bool {
					return op == faultfs.Rename && strings.HasPrefix(path, r.o.Archive)
				}))
				r.end(first)
				r.drop("x.jsonl")
				if crash {
					r.stop()
				}
				disk.Set(func(op faultfs.Op, path string) error {
					if strings.Contains(path, first.ID) && op == faultfs.Stat { // the other one comes first
						time.Sleep(time.Second)
					}
					return nil
				})
				r.end(r.admitted[1])
				if crash {
					r.run()
				}
				r.pass(time.Minute)
				r.wantTree("archive", "done/x.jsonl", "done/x~2.jsonl")
				r.wantNoClaims()
			})
		})
	}
}

// An input gets the name that it had noted for its copy, also if a lower one has become free: else it would hold two for a
// while, and others pass over one that then stays free.
func TestNotedNameIsKept(t *testing.T) {
	bubble(t, func(r *rig) {
		disk := r.across()
		r.run()
		for n := range 2 {
			r.drop("x.jsonl")
			r.end(r.admitted[n])
			r.pass(5 * time.Second)
			disk.Set(failing(unix.EIO, func(op faultfs.Op, path string) bool {
				return op == faultfs.Rename && strings.HasPrefix(path, r.o.Archive)
			}))
		}
		r.ok(os.Remove(filepath.Join(r.o.Archive, "done", "x.jsonl")))
		disk.Set(nil)
		r.pass(time.Minute)
		r.wantTree("archive", "done/x~2.jsonl")
		r.wantNoClaims()
	})
}

// An input that was on its way out as a duplicate when a crash came, and runs after all, does not take another duplicate of
// its name for its copy.
func TestCopyAsideIsNoInput(t *testing.T) {
	bubble(t, func(r *rig) {
		r.across()
		r.run()
		for range 2 {
			r.drop("x.jsonl")
		}
		r.write(r.processing(r.admitted[0].ID, movedFile), "duplicate/x.jsonl")
		r.end(r.admitted[0])
		r.pass(time.Minute)
		r.wantTree("archive", "done/x.jsonl", "duplicate/x.duplicate.json", "duplicate/x.jsonl")
		r.wantNoClaims()
	})
}

// Nothing stays of a copy on another filesystem whose original somebody takes away before it is whole.
func TestHalfCopyGoesWithItsOriginal(t *testing.T) {
	for title, folder := range map[string]string{"input": "done", "duplicate": "duplicate"} {
		for when, crash := range map[string]bool{"alive": false, "after a crash": true} {
			t.Run(title+" "+when, func(t *testing.T) {
				bubble(t, func(r *rig) {
					half := func(path string) bool {
						return strings.HasPrefix(path, r.o.Archive) && strings.Contains(path, durable.MovePrefix)
					}
					disk := r.across()
					r.run()
					r.drop("x.jsonl")
					disk.Set(func(op faultfs.Op, path string) error {
						if half(path) && (op == faultfs.Sync || op == faultfs.Remove) {
							if _, err := os.Lstat(path); err == nil {
								return unix.EIO
							}
						}
						return nil
					})
					if folder == "done" {
						r.end(r.admitted[0])
					} else {
						r.write("x.jsonl", line)
					}
					r.pass(5 * time.Second)
					if tree := r.tree("archive"); len(tree) != 1 || !half(filepath.Join(r.o.Archive, tree[0])) || filepath.Dir(tree[0]) != folder {
						t.Fatalf("there is no half copy: %q", tree)
					}
					if crash {
						r.stop()
					}
					id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(r.tree("archive")[0]), durable.MovePrefix), ".tmp")
					r.ok(os.Remove(r.path(r.processing(id, "x.jsonl"))))
					disk.Set(nil)
					if crash {
						r.run()
					}
					r.pass(5 * time.Minute)
					r.wantTree("archive")
				})
			})
		}
	}
}

// Half a copy of a duplicate that runs after all is removed for good before the claim that tells of it goes.
func TestHalfCopyIsGoneBeforeItsClaim(t *testing.T) {
	bubble(t, func(r *rig) {
		disk := r.across()
		r.run()
		r.drop("x.jsonl")
		id, dir := r.admitted[0].ID, filepath.Join(r.o.Archive, "duplicate")
		r.write(r.processing(id, duplicateFile), `{"name":"x.jsonl","queue":"","duplicate_of":"batch_1","as":"x.jsonl"}`)
		r.mkdir(dir)
		r.ok(os.WriteFile(moveTemp(id, dir), []byte(line[:1]), 0o600))
		var synced, gone atomic.Bool
		disk.Set(func(op faultfs.Op, path string) error {
			switch {
			case op == faultfs.SyncDir && path == dir:
				if _, err := os.Lstat(moveTemp(id, dir)); err != nil {
					synced.Store(true)
				}
			case op == faultfs.Remove && filepath.Base(path) == duplicateFile:
				gone.Store(true)
				if !synced.Load() {
					t.Error("the claim goes, and a power cut may bring its half copy back")
				}
			}
			return nil
		})
		r.end(r.admitted[0])
		r.pass(time.Minute)
		r.wantTree("archive", "done/x.jsonl")
		if !gone.Load() {
			t.Error("the claim stays")
		}
	})
}

// A copy on another filesystem is made once, also where the original cannot be removed at first.
func TestCopyIsMadeOnce(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		r.stop()
		var stays atomic.Bool
		stays.Store(true)
		disk := r.across()
		disk.Set(failing(unix.EIO, func(op faultfs.Op, path string) bool {
			return op == faultfs.Remove && stays.Load() && strings.HasSuffix(path, ".jsonl") && strings.Contains(path, ".processing")
		}))
		r.end(r.admitted[0])
		r.run()
		r.pass(time.Minute)
		r.wantTree("archive", "done/x.jsonl")
		if _, err := os.Stat(r.path(r.processing(r.admitted[0].ID, movedFile))); err != nil {
			t.Errorf("nothing was copied: %v", err)
		}
		stays.Store(false)
		r.pass(time.Minute)
		r.wantTree("archive", "done/x.jsonl")
		r.wantTree("inbox")
	})
}

// Of two files with one name and the same bytes the one that was taken first gets the name, and the other is set aside,
// however long the first one is being copied.
func TestTwinsAtOnce(t *testing.T) {
	bubble(t, func(r *rig) {
		release := make(chan struct{})
		disk := r.faulty()
		disk.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.Read && strings.Contains(path, ".processing") {
				<-release
			}
			return nil
		})
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		r.drop("x.jsonl")
		close(release)
		r.pass(time.Minute)
		if len(r.admitted) != 1 || r.admitted[0].Name != "x" {
			t.Errorf("admitted are %+v", r.admitted)
		}
		r.wantTree("archive", "duplicate/x.duplicate.json", "duplicate/x.jsonl")
	})
}

// A duplicate whose move succeeded, though its sync did not, gets its note all the same.
func TestSetAsideInTwoTries(t *testing.T) {
	bubble(t, func(r *rig) {
		var failed atomic.Bool
		disk := r.faulty()
		disk.Set(failing(unix.EIO, func(op faultfs.Op, path string) bool {
			_, err := os.Lstat(filepath.Join(r.o.Archive, "duplicate", "x.jsonl"))
			return op == faultfs.SyncDir && err == nil && !failed.Swap(true)
		}))
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		r.write("x.jsonl", line)
		r.pass(5 * time.Minute)
		r.wantTree("archive", "duplicate/x.duplicate.json", "duplicate/x.jsonl")
		if !failed.Load() {
			t.Error("nothing failed")
		}
	})
}
