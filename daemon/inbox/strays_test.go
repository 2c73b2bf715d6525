package inbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store"
	"stoker/store/durable"
	"stoker/test/faultfs"
)

// sharedBubble is a bubble whose inbox and archive are shared with others, as in the daemon, and a secret beside them.
func sharedBubble(t *testing.T, test func(r *rig, secret string)) {
	bubble(t, func(r *rig) {
		r.o.FS = durable.Beneath{r.o.Dir, r.o.Archive}
		r.mkdir(r.o.Archive)
		secret := filepath.Join(r.dir, "secret.jsonl")
		if err := os.WriteFile(secret, []byte(line), 0o644); err != nil {
			t.Fatal(err)
		}
		test(r, secret)
		if got, err := os.ReadFile(secret); err != nil || string(got) != line {
			t.Errorf("the secret is %q, %v", got, err)
		}
		for _, rec := range r.admitted {
			if rec.Input.Name == "secret.jsonl" {
				t.Error("the secret ran")
			}
		}
	})
}

func (r *rig) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// holdClaims lets no claimed file be copied until release.
func (r *rig) holdClaims() (release func()) {
	faulty := faultfs.New(r.o.FS)
	faulty.Set(failing(unix.ESTALE, func(op faultfs.Op, path string) bool {
		return op == faultfs.Open && strings.Contains(path, ".processing")
	}))
	r.o.FS = faulty
	return func() { faulty.Set(nil) }
}

func (r *rig) link(target, name string) {
	r.t.Helper()
	r.mkdir(filepath.Dir(r.path(name)))
	r.ok(os.Symlink(target, r.path(name)))
}

func (r *rig) pipe(name string) {
	r.t.Helper()
	r.mkdir(filepath.Dir(r.path(name)))
	r.ok(unix.Mkfifo(r.path(name), 0o666))
}

// What others put under .processing runs if it is a batch file, and is named otherwise. It holds up nothing.
func TestPlantedClaims(t *testing.T) {
	sharedBubble(t, func(r *rig, secret string) {
		ids := make([]string, 12)
		for i := range ids {
			ids[i] = store.NewID()
		}
		claim := func(i int, parts ...string) string { return r.processing(append([]string{ids[i]}, parts...)...) }
		r.link(secret, claim(0, "secret.jsonl"))
		r.link("/etc/shadow", claim(0, "aaa.jsonl"))
		r.link(r.dir, claim(1)) // a folder outside, with a batch file in it
		r.write(claim(2, "x.jsonl"), line)
		r.write(claim(2, queueFile), "../../outside")
		r.write(claim(3, "x.jsonl"), line)
		r.pipe(claim(3, queueFile))
		r.write(claim(4, "x.jsonl"), line)
		r.link(secret, claim(4, queueFile))
		r.write(claim(5, "x.jsonl"), line)
		r.write(claim(5, queueFile), strings.Repeat("q", 1<<20))
		r.write(claim(6, "folder.jsonl", "x.jsonl"), line)
		r.write(claim(7, "x.jsonl"), line+line)
		r.write(claim(7, queueFile), "q") // as stoker writes it
		r.link(secret, claim(7, "a.jsonl"))
		r.write(claim(7, "b.txt"), "")
		r.write(claim(8, "one.jsonl"), line)
		r.write(claim(8, "two.jsonl"), line)
		r.link(ids[7], claim(9)) // another claim
		r.write(claim(10, "x.jsonl"), line)
		r.write(claim(10, queueFile), "")
		r.write(claim(11, "x.jsonl"), line)
		r.write(claim(11, queueFile), "a/b")
		r.write(r.processing("stray.jsonl"), line)
		r.mkdir(r.path(r.processing("batch_no-id")))
		r.write("mine.jsonl", line)
		r.run()
		r.pass(time.Minute)
		r.want("mine.jsonl", "q/x.jsonl", "one.jsonl")
		for name, reason := range map[string]string{
			r.processing(ids[0]): "no batch file", r.processing(ids[1]): "did not put", r.processing(ids[2]): "names no queue",
			r.processing(ids[3]): "not a regular file", r.processing(ids[4]): "not a regular file", r.processing(ids[5]): "names no queue",
			r.processing(ids[6]): "no batch file", r.processing(ids[9]): "did not put", r.processing(ids[10]): "names no queue",
			r.processing(ids[11]): "names no queue", r.processing("stray.jsonl"): "did not put", r.processing("batch_no-id"): "did not put",
		} {
			r.wantReason(name, reason)
		}
		r.end(r.admitted[0])
		for _, rec := range r.admitted[1:] {
			r.end(rec)
		}
		r.pass(time.Minute)
		r.want("mine.jsonl", "q/x.jsonl", "one.jsonl", "two.jsonl")
		r.wantTree("archive", "done/mine.jsonl", "done/one.jsonl", "done/q/x.jsonl")

		r.ok(os.Remove(r.path(claim(3, queueFile)))) // mended by hand
		r.pass(time.Minute)
		r.want("mine.jsonl", "q/x.jsonl", "one.jsonl", "two.jsonl", "x.jsonl")
		for _, name := range []string{claim(0, "secret.jsonl"), claim(1), claim(2, "x.jsonl"), claim(6, "folder.jsonl/x.jsonl"), claim(7, "b.txt"), r.processing("stray.jsonl")} {
			if _, err := os.Lstat(r.path(name)); err != nil {
				t.Errorf("what somebody put there is gone: %v", err)
			}
		}
	})
}

// Hundreds of entries that are no claims keep no file from being taken, and do not flood the status.
func TestManyStrays(t *testing.T) {
	sharedBubble(t, func(r *rig, secret string) {
		for n := range 1000 {
			switch n % 3 {
			case 0:
				r.mkdir(r.path(r.processing(fmt.Sprint("junk", n))))
			case 1:
				r.mkdir(r.path(r.processing(store.NewID()))) // as a crash leaves it
			case 2:
				r.mkdir(r.path(".processing", fmt.Sprint("other", n)))
			}
		}
		r.write("x.jsonl", line)
		r.run()
		r.pass(time.Minute)
		r.want("x.jsonl")
		s := r.inbox.Status()
		if len(s.Ignored) != maxIgnored || len(s.Foreign) != maxIgnored {
			t.Errorf("%d ignored, %d foreign", len(s.Ignored), len(s.Foreign))
		}
	})
}

// A claimed file that somebody replaces by a link, a pipe or a folder is not read: it goes back to where its name is told.
func TestClaimSwapped(t *testing.T) {
	for title, plant := range map[string]func(r *rig, secret, path string){
		"link":   func(r *rig, secret, path string) { r.ok(os.Symlink(secret, path)) },
		"pipe":   func(r *rig, _, path string) { r.ok(unix.Mkfifo(path, 0o666)) },
		"folder": func(r *rig, _, path string) { r.ok(os.Mkdir(path, 0o755)) },
	} {
		t.Run(title, func(t *testing.T) {
			sharedBubble(t, func(r *rig, secret string) {
				release := r.holdClaims()
				r.run()
				r.drop("q/x.jsonl")
				path := r.claimed("x.jsonl")
				r.ok(os.Remove(path))
				plant(r, secret, path)
				r.write("q/x.jsonl", line+line) // whichever comes second takes another name
				r.pass(5 * time.Minute)
				r.want()
				_, first := os.Lstat(r.path("q/x.jsonl"))
				if _, second := os.Lstat(r.path("q/x~2.jsonl")); first != nil && second != nil {
					t.Errorf("it was not given back: %+v", r.inbox.Status())
				}
				release()
				r.pass(5 * time.Minute)
				r.want("q/x.jsonl")
				if r.admitted[0].Requests != 2 {
					t.Errorf("%d requests", r.admitted[0].Requests)
				}
			})
		})
	}
}

// What has a claimed file's place when its batch ends is not archived unless it is a file.
func TestArchivesNoLink(t *testing.T) {
	sharedBubble(t, func(r *rig, secret string) {
		r.run()
		r.drop("x.jsonl")
		path := r.claimed("x.jsonl")
		r.ok(os.Remove(path))
		r.ok(os.Symlink(secret, path))
		r.end(r.admitted[0])
		r.pass(time.Minute)
		r.wantTree("archive")
		r.wantReason("x.jsonl", "symbolic link")
		if rec, err := r.store.Get(r.admitted[0].ID); err != nil || !rec.Archived {
			t.Errorf("the batch waits to be archived: %v", err)
		}
	})
}

// A claim's folder that somebody replaces by a link to another claim does not lead to that one's file.
func TestClaimFolderSwapped(t *testing.T) {
	for _, when := range []string{"before it is copied", "before it is archived"} {
		t.Run(when, func(t *testing.T) {
			sharedBubble(t, func(r *rig, _ string) {
				release := r.holdClaims()
				if when == "before it is archived" {
					release()
				}
				r.run()
				r.drop("a/x.jsonl")
				first := filepath.Dir(r.claimed("x.jsonl"))
				r.write("b/x.jsonl", line+line)
				r.pass(5 * time.Second)
				var second string
				all, err := filepath.Glob(filepath.Join(filepath.Dir(first), "batch_*"))
				r.ok(err)
				for _, dir := range all {
					if dir != first {
						second = dir
					}
				}
				r.ok(os.Rename(first, filepath.Join(r.dir, "taken-away")))
				r.ok(os.Symlink(filepath.Base(second), first))
				release()
				if when == "before it is archived" {
					r.end(r.admitted[0])
				}
				r.pass(5 * time.Minute)
				if _, err := os.Lstat(filepath.Join(second, "x.jsonl")); err != nil {
					t.Errorf("the other claim: %v", err)
				}
				if when == "before it is copied" {
					r.want("b/x.jsonl")
				} else {
					r.want("a/x.jsonl", "b/x.jsonl")
					r.wantTree("archive")
				}
			})
		})
	}
}

// Names as long as the filesystem allows are archived and set aside as often as they come.
func TestLongNames(t *testing.T) {
	for title, stem := range map[string]string{"ASCII": strings.Repeat("x", 249), "two bytes": strings.Repeat("ü", 124) + "x", "not UTF-8": strings.Repeat("\xff", 249)} {
		t.Run(title, func(t *testing.T) {
			sharedBubble(t, func(r *rig, _ string) {
				name := stem + ".jsonl"
				r.run()
				for range 4 {
					r.drop(name)
				}
				r.want(name)
				if got := r.tree("archive"); len(got) != 6 {
					t.Errorf("three duplicates and their notes are %q", got)
				}
				for range 3 {
					r.end(r.admitted[len(r.admitted)-1])
					r.drop(name)
				}
				r.want(name, name, name, name)
				if got := r.tree("archive/done"); len(got) != 3 || len(r.tree("archive")) != 9 {
					t.Errorf("archived are %q", r.tree("archive"))
				}
			})
		})
	}
}

// Claims are nobody's to write to but stoker's; what stoker makes in the archive is for whom the archive is.
func TestFoldersModes(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	sharedBubble(t, func(r *rig, _ string) {
		for _, dir := range []string{r.o.Dir, r.o.Archive} {
			r.ok(os.Chmod(dir, 0o775|os.ModeSetgid))
		}
		r.run()
		r.drop("q/x.jsonl")
		for path, want := range map[string]os.FileMode{
			r.path(".processing"): 0o775, r.path(r.processing()): 0o755, filepath.Dir(r.claimed("x.jsonl")): 0o755,
		} {
			if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
				t.Errorf("%s is %v, %v", path, st.Mode(), err)
			}
		}
		r.drop("q/x.jsonl")
		r.end(r.admitted[0])
		r.pass(5 * time.Second)
		for _, dir := range []string{"done", "done/q", "duplicate", "duplicate/q"} {
			if st, err := os.Stat(filepath.Join(r.o.Archive, dir)); err != nil || st.Mode() != 0o775|os.ModeSetgid|os.ModeDir {
				t.Errorf("%s is %v, %v", dir, st.Mode(), err)
			}
		}
		if st, err := os.Stat(filepath.Join(r.o.Archive, "duplicate/q/x.duplicate.json")); err != nil || st.Mode().Perm() != 0o664 {
			t.Errorf("the note is %v, %v", st.Mode(), err)
		}
	})
}
