package outbox

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
)

// sharedBubble is a bubble whose outbox is shared with others, as in the daemon, and a file beside it that is nobody's
// to touch.
func sharedBubble(t *testing.T, test func(r *rig, victim string)) {
	bubble(t, func(r *rig) {
		r.o.FS = durable.Beneath{r.o.Dir}
		victim := filepath.Join(r.dir, "victim")
		for _, err := range []error{os.Mkdir(r.o.Dir, 0o755), os.WriteFile(victim, []byte("precious"), 0o600)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		test(r, victim)
		st, err := os.Stat(victim)
		if got, _ := os.ReadFile(victim); err != nil || string(got) != "precious" || st.Mode().Perm() != 0o600 {
			t.Errorf("the victim is %v, %q: %v", st.Mode(), got, err)
		}
	})
}

// plants are what somebody may put in a file's place.
var plants = map[string]func(path, victim string) error{
	"symbolic link": func(path, victim string) error { return os.Symlink(victim, path) },
	"dangling link": func(path, _ string) error { return os.Symlink("/nowhere", path) },
	"hard link":     func(path, victim string) error { return os.Link(victim, path) },
	"pipe":          func(path, _ string) error { return unix.Mkfifo(path, 0o666) },
	"folder":        func(path, _ string) error { return os.Mkdir(path, 0o755) },
	"file":          func(path, _ string) error { return os.WriteFile(path, []byte("mine"), 0o600) },
}

// What somebody put at a result file's name stays what it is. The results go elsewhere.
func TestPlantedResults(t *testing.T) {
	for title, plant := range plants {
		for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch} {
			for _, recorded := range []bool{false, true} {
				t.Run(title+suffix, func(t *testing.T) {
					sharedBubble(t, func(r *rig, victim string) {
						b := r.complete("", "x.jsonl", three...)
						if recorded {
							e := edition{p: New(r.o), b: b, dir: r.o.Dir}
							if err := b.Finalize(); err != nil {
								t.Fatal(err)
							}
							if err := e.write("x"); err != nil {
								t.Fatal(err)
							}
						}
						path := r.path("x" + suffix)
						if err := plant(path, victim); err != nil {
							t.Fatal(err)
						}
						before, err := os.Lstat(path)
						if err != nil {
							t.Fatal(err)
						}
						r.run()
						r.finish(b)
						r.wantEnded(1)
						if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() {
							t.Errorf("what was there is %v, %v", after, err)
						}
						for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch} {
							if st, err := os.Lstat(r.path("x~2" + suffix)); err != nil || !st.Mode().IsRegular() {
								t.Errorf("the results: %v", err)
							}
						}
					})
				})
			}
		}
	}
}

// What somebody put at a temporary name is not written through.
func TestPlantedTemporaries(t *testing.T) {
	for title, plant := range plants {
		if title == "folder" {
			continue // the next test's
		}
		t.Run(title, func(t *testing.T) {
			sharedBubble(t, func(r *rig, victim string) {
				b := r.complete("", "x.jsonl", three...)
				for _, path := range temporaries(r, b) {
					if err := plant(path, victim); err != nil {
						t.Fatal(err)
					}
				}
				r.run()
				r.finish(b)
				r.wantEnded(1)
				r.wantFiles(results...)
			})
		})
	}
}

// A folder at a temporary name stays. It is told, and waited out.
func TestPlantedFolder(t *testing.T) {
	sharedBubble(t, func(r *rig, _ string) {
		b := r.complete("", "x.jsonl", three...)
		r.run()
		for _, path := range temporaries(r, b) {
			theirs := filepath.Join(filepath.Base(path), "theirs")
			r.write(theirs, "")
			r.finish(b)
			r.pass(time.Minute)
			r.wantEnded(0)
			if reason := r.publisher.Status().Reason; !strings.Contains(reason, path) {
				t.Errorf("the reason is %q", reason)
			}
			r.read(theirs)
			r.stop()
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			b = r.open(b.Meta.ID)
			r.run()
		}
		r.finish(b)
		r.wantEnded(1)
		r.wantFiles(results...)
	})
}

// temporaries are all the names that a batch's files have before their own.
func temporaries(r *rig, b *store.Batch) (paths []string) {
	e := edition{p: New(r.o), b: b, dir: r.o.Dir}
	for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch} {
		paths = append(paths, e.temp(suffix), e.temp(suffix)+partial)
	}
	return paths
}

// A note replaces and removes notes of its own batch, and nothing else that has its name.
func TestNoteSparesOthers(t *testing.T) {
	note := func(b *store.Batch) Note {
		return Note{Name: "x", ID: b.Meta.ID, State: store.InProgress, Total: 3}
	}
	for title, plant := range plants {
		t.Run(title, func(t *testing.T) {
			sharedBubble(t, func(r *rig, victim string) {
				b := r.complete("", "x.jsonl", three...)
				path := r.path("x.status.txt")
				if err := plant(path, victim); err != nil {
					t.Fatal(err)
				}
				before, err := os.Lstat(path)
				if err != nil {
					t.Fatal(err)
				}
				r.run()
				r.publisher.SetNotes([]Note{note(b)})
				r.pass(0)
				r.finish(b)
				r.wantEnded(1)
				if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
					t.Errorf("what was there: %v", err)
				}
			})
		})
	}
	sharedBubble(t, func(r *rig, _ string) {
		b := r.complete("", "x.jsonl", three...)
		r.run()
		for range 2 { // the second one in place of the first
			r.publisher.SetNotes([]Note{note(b)})
			r.pass(0)
			r.wantFiles("x.status.txt")
		}
		r.stop()
		r.run() // the next life knows it again
		r.finish(b)
		r.wantEnded(1)
		r.wantFiles(results...)
	})
}

// A link to another disk in place of a queue's folder is refused, in words, until it is a folder.
func TestQueueFolderIsALink(t *testing.T) {
	sharedBubble(t, func(r *rig, _ string) {
		b := r.complete("q", "x.jsonl", three...)
		elsewhere := filepath.Join(r.dir, "elsewhere")
		if err := os.Mkdir(elsewhere, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(elsewhere, r.path("q")); err != nil {
			t.Fatal(err)
		}
		r.run()
		r.publisher.SetNotes([]Note{{Queue: "q", Name: "x", ID: b.Meta.ID}})
		r.finish(b)
		r.pass(time.Minute)
		r.wantEnded(0)
		want := r.path("q") + ": a symbolic link leads outside of the folders that are configured"
		if reason := r.publisher.Status().Reason; !strings.Contains(reason, want) {
			t.Errorf("the reason is %q, want %q in it", reason, want)
		}
		if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
			t.Errorf("behind the link are %v, %v", left, err)
		}
		if err := os.Remove(r.path("q")); err != nil {
			t.Fatal(err)
		}
		r.pass(2 * time.Minute)
		r.wantEnded(1)
		r.wantFiles("q/x.batch.json", "q/x.errors.jsonl", "q/x.output.jsonl")
	})
}

// All that is published has the configured mode and the outbox's group, whatever the umask is.
func TestModesAndGroups(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for title, group := range map[string]int{"as the folder": -1, "as configured": 2345} {
		if os.Geteuid() != 0 {
			group = -1 // nobody else may give files away
		}
		t.Run(title, func(t *testing.T) {
			sharedBubble(t, func(r *rig, _ string) {
				r.o.Mode, r.o.Group = 0o664, group
				want := uint32(os.Getegid())
				if os.Geteuid() == 0 {
					want = 1234
					if err := os.Chown(r.o.Dir, -1, 1234); err != nil {
						t.Fatal(err)
					}
				}
				if err := os.Chmod(r.o.Dir, 0o775|os.ModeSetgid); err != nil {
					t.Fatal(err)
				}
				if group >= 0 {
					want = uint32(group)
				}
				b := r.complete("q", "x.jsonl", three...)
				r.run()
				r.publisher.SetNotes([]Note{{Queue: "q", Name: "x", ID: b.Meta.ID}})
				r.pass(0)
				check := func(suffix string) {
					t.Helper()
					st, err := os.Stat(r.path("q/x" + suffix))
					if err != nil || st.Mode() != 0o664 || st.Sys().(*syscall.Stat_t).Gid != want {
						t.Errorf("%s is %v, %v", suffix, st, err)
					}
				}
				check(store.SuffixStatus)
				r.finish(b)
				r.wantEnded(1)
				for _, suffix := range []string{store.SuffixOutput, store.SuffixErrors, store.SuffixBatch} {
					check(suffix)
				}
				if st, err := os.Stat(r.path("q")); err != nil || st.Mode() != 0o775|os.ModeSetgid|os.ModeDir {
					t.Errorf("the queue's folder is %v, %v", st.Mode(), err)
				}
			})
		})
	}
}
