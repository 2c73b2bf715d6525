package inbox

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"stoker/store/durable"
	"stoker/test/faultfs"
)

// bubble runs a test on a fake clock.
func bubble(t *testing.T, test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newRig(t)) })
}

func gzipped(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write([]byte(text))
	w.Close()
	return b.Bytes()
}

func TestNames(t *testing.T) {
	for name, taken := range map[string]bool{
		"x.jsonl": true, "x.JSONL": true, "x.Jsonl.GZ": false /* no gzip inside */, "q/x.jsonl": true, "q/r/x.jsonl": false, "a b\n.jsonl": true,
		"\xff\xfe.jsonl": true, "İ.jsonl": true, "x.jsonl.jsonl": true, "x.json": false, "x.txt": false, ".jsonl": false, ".x.jsonl": false,
		"x.jsonl.tmp": false, "x.jsonl.part": false, "x.jsonl.partial": false, "x.jsonl.filepart": false, "x.jsonl.crdownload": false,
		"x.jsonl.swp": false, "x.jsonl.lock": false, "x.jsonl~": false, "~$x.jsonl": false, "#x.jsonl#": false, "x.done": false,
		"Thumbs.db": false, "desktop.ini": false, "@eaDir/x.jsonl": false, "__MACOSX/x.jsonl": false, ".q/x.jsonl": false,
	} {
		bubble(t, func(r *rig) {
			r.write(name, line)
			r.run()
			r.pass(10 * time.Second)
			want := []string{}
			if taken || name == "x.Jsonl.GZ" {
				want = append(want, name)
			}
			r.want(want...)
			if rec := r.admitted; len(rec) == 1 && !taken {
				if m, err := r.store.Meta(rec[0].ID); err != nil || m.Refused == nil {
					r.t.Errorf("%q is not refused: %v", name, err)
				}
			}
		})
	}
}

func TestOnlyRegularFiles(t *testing.T) {
	bubble(t, func(r *rig) {
		r.mkdir(r.path("q", "dir.jsonl"))
		target := filepath.Join(r.dir, "target.jsonl")
		if err := errors.Join(
			os.WriteFile(target, []byte(line), 0o600), os.Symlink(target, r.path("link.jsonl")), syscall.Mkfifo(r.path("pipe.jsonl"), 0o600),
		); err != nil {
			t.Fatal(err)
		}
		r.run()
		r.pass(10 * time.Second)
		r.want()
		r.wantReason("link.jsonl", "not a regular file")
		r.wantReason("pipe.jsonl", "not a regular file")
		r.wantReason("q/dir.jsonl", "folders this deep")
	})
}

func TestSettles(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		r.write("x.jsonl", line)
		for range 5 {
			r.pass(1500 * time.Millisecond)
			r.want()
			r.append(r.path("x.jsonl"), line)
		}
		r.pass(2 * time.Second)
		r.wantReason("x.jsonl", "may still be written to")
		r.pass(3 * time.Second)
		r.want("x.jsonl")
		if n := r.admitted[0].Requests; n != 6 {
			t.Errorf("%d requests, want 6", n)
		}
		r.wantTree("inbox", r.processing(r.admitted[0].ID, "x.jsonl"))
	})
}

func TestEmptyWaits(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("x.jsonl", "")
		r.run()
		r.pass(time.Hour)
		r.wantReason("x.jsonl", "empty")
		r.write("x.jsonl", line)
		r.pass(6 * time.Second)
		r.want("x.jsonl")
	})
}

func TestVanishes(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("x.jsonl", line)
		r.run()
		r.pass(time.Second)
		os.Remove(r.path("x.jsonl"))
		r.pass(5 * time.Second)
		if s := r.inbox.Status(); len(s.Waiting) != 0 {
			t.Errorf("waiting are %+v", s.Waiting)
		}
	})
}

func TestTailGrace(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("x.jsonl", strings.TrimSuffix(line, "\n"))
		r.run()
		r.pass(50 * time.Second)
		r.wantReason("x.jsonl", "no newline")
		r.pass(20 * time.Second)
		r.want("x.jsonl")
		if m, err := r.store.Meta(r.admitted[0].ID); err != nil || m.Requests != 1 || m.Invalid != 0 {
			t.Errorf("meta is %+v: %v", m, err)
		}
	})
}

func TestCompressedTailGrace(t *testing.T) {
	whole := gzipped(line + line)
	bubble(t, func(r *rig) {
		r.write("cut.jsonl.gz", string(whole[:len(whole)-6]))
		r.write("open.jsonl.gz", string(gzipped(line+`{"prompt":"x"}`)))
		r.write("late.jsonl.gz", string(whole[:len(whole)-6]))
		r.run()
		r.pass(30 * time.Second)
		r.want()
		r.wantReason("cut.jsonl.gz", "cut off")
		r.wantReason("open.jsonl.gz", "no newline")
		late := r.claimed("late.jsonl.gz")
		r.append(late, string(whole[len(whole)-6:]))
		r.pass(15 * time.Second)
		r.want("late.jsonl.gz")
		r.pass(40 * time.Second)
		r.want("late.jsonl.gz", "open.jsonl.gz", "cut.jsonl.gz")
		for _, rec := range r.admitted {
			m, err := r.store.Meta(rec.ID)
			if err != nil || (m.Refused != nil) != (rec.Input.Name == "cut.jsonl.gz") {
				t.Errorf("%s: refused %+v, %v", rec.Input.Name, m.Refused, err)
			}
		}
	})
}

// claimed returns where a claimed file is.
func (r *rig) claimed(name string) string {
	r.t.Helper()
	found, err := filepath.Glob(r.path(r.processing("*", name)))
	if err != nil || len(found) != 1 {
		r.t.Fatalf("claimed are %v: %v", found, err)
	}
	return found[0]
}

func TestReadyModes(t *testing.T) {
	bubble(t, func(r *rig) {
		r.o.Ready = ReadyRename
		r.write("x.jsonl", strings.TrimSuffix(line, "\n"))
		r.run()
		r.pass(0)
		r.want("x.jsonl")
	})
	for _, sidecar := range []string{"a.jsonl.b.done", "a.jsonl.b.jsonl.done"} {
		bubble(t, func(r *rig) {
			r.o.Ready = ReadySidecar
			var gone atomic.Bool // as of the last sync: a power cut brings it back else, and it announces the next file of this name
			disk := faultfs.New(durable.Local{})
			disk.Set(func(op faultfs.Op, path string) error {
				if op == faultfs.SyncDir && path == r.path("q") {
					_, err := os.Lstat(r.path("q", sidecar))
					gone.Store(err != nil)
				}
				return nil
			})
			r.o.FS = disk
			r.write("q/a.jsonl.b.jsonl", line)
			r.run()
			r.pass(time.Hour)
			r.want()
			r.wantReason("q/a.jsonl.b.jsonl", ".done")
			r.write("q/"+sidecar, "")
			r.pass(r.o.PollEvery)
			r.want("q/a.jsonl.b.jsonl")
			if _, err := os.Lstat(r.path("q", sidecar)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the sidecar is still there: %v", err)
			}
			if !gone.Load() {
				t.Error("the sidecar is removed, and its folder was not synced since")
			}
		})
	}
}

// A share that fails just while a sidecar is removed is waited for: it would announce the next file of this name.
func TestSidecarOutlivesNoFault(t *testing.T) {
	for _, op := range []faultfs.Op{faultfs.Remove, faultfs.SyncDir} {
		bubble(t, func(r *rig) {
			r.o.Ready = ReadySidecar
			gone := func() bool {
				_, err := os.Lstat(r.path("x.done"))
				return err != nil
			}
			var failed, durably atomic.Bool
			disk := faultfs.New(durable.Local{})
			disk.Set(func(o faultfs.Op, path string) error {
				hit := o == op && (path == r.path("x.done") || path == r.path() && gone())
				if hit && failed.CompareAndSwap(false, true) {
					return unix.EIO
				}
				if o == faultfs.SyncDir && path == r.path() {
					durably.Store(gone())
				}
				return nil
			})
			r.o.FS = disk
			r.write("x.jsonl", line)
			r.write("x.done", "")
			r.run()
			r.pass(time.Minute)
			r.want("x.jsonl")
			if !failed.Load() || !durably.Load() {
				t.Errorf("%s: failed: %t, and the sidecar is gone for good: %t", op, failed.Load(), durably.Load())
			}
		})
	}
}

// A file that another one replaced since it was looked at is looked at anew, and nothing is lost.
func TestReplacedBeforeClaim(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		r.stop() // its goroutine is this one from here on
		r.write("x.jsonl", line)
		in := r.inbox
		if err := in.scan(); err != nil {
			t.Fatal(err)
		}
		key := fileKey{name: "x.jsonl"}
		f := *in.files[key]
		f.ready = true
		r.write("x.jsonl", line+line)
		in.files[key] = &f
		if in.takeReady(); len(in.claims) > 0 {
			t.Errorf("claimed %+v", in.claims[0])
		}
		r.wantTree("inbox", "x.jsonl")
		r.run()
		r.pass(5 * time.Second)
		r.want("x.jsonl")
		if n := r.admitted[0].Requests; n != 2 {
			t.Errorf("%d requests, want 2", n)
		}
	})
}

// A writer that does not stop after the claim is waited for, not copied after in a loop.
func TestGrowsAfterClaim(t *testing.T) {
	bubble(t, func(r *rig) {
		var asked atomic.Int64
		r.o.Settle = 0
		share := faultfs.New(durable.Local{})
		share.Set(failing(unix.EIO, func(op faultfs.Op, path string) bool {
			return op == faultfs.Open && strings.Contains(path, ".processing") && asked.Add(1) <= 3
		}))
		r.o.FS = share
		r.write("x.jsonl", line)
		r.run()
		r.pass(time.Second)
		for range 50 {
			r.append(r.claimed("x.jsonl"), line)
			r.pass(50 * time.Millisecond)
		}
		r.want()
		if n := asked.Load(); n > 4 {
			t.Errorf("it was copied %d times", n)
		}
		r.pass(2 * time.Minute)
		r.want("x.jsonl")
		if n := r.admitted[0].Requests; n != 51 {
			t.Errorf("%d requests, want 51", n)
		}
	})
}

func TestUnreadableInbox(t *testing.T) {
	bubble(t, func(r *rig) {
		r.run()
		r.pass(time.Second)
		if err := os.Rename(r.path(), r.path()+".away"); err != nil {
			t.Fatal(err)
		}
		r.pass(5 * time.Second)
		if s := r.inbox.Status(); s.Problem == "" {
			t.Error("status tells no problem")
		}
		r.mkdir(r.path())
		r.write("q/x.jsonl", line)
		r.pass(10 * time.Second)
		r.want("q/x.jsonl")
		if s := r.inbox.Status(); s.Problem != "" {
			t.Errorf("problem is %s", s.Problem)
		}
	})
}

// What becomes of one of many files is no reason to look at all of them again.
func TestManyFilesTakeFewLooks(t *testing.T) {
	bubble(t, func(r *rig) {
		var looks atomic.Int64
		watched := faultfs.New(durable.Local{})
		watched.Set(func(op faultfs.Op, path string) error {
			if op == faultfs.ReadDir && path == r.path() {
				looks.Add(1)
			}
			return nil
		})
		r.o.FS = watched
		for i := range 250 {
			r.write(fmt.Sprintf("%d.jsonl", i), line)
		}
		r.run()
		r.pass(10 * time.Second)
		if n := len(r.names()); n != 250 {
			t.Errorf("%d of 250 files are taken", n)
		}
		if n := looks.Load(); n > 10 {
			t.Errorf("the inbox was looked at %d times", n)
		}
	})
}

// eventually waits for what real events bring.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not in time: " + what)
		}
	}
}

// Events make the inbox look long before the next regular scan, also after its folders were replaced.
func TestEvents(t *testing.T) {
	r := newRig(t)
	r.o.Watch = func() Watcher { return NewWatcher(r.o.Dir, r.o.Logger) }
	r.o.Settle, r.o.Rescan, r.o.PollEvery = 10*time.Millisecond, time.Hour, 50*time.Millisecond
	r.run()
	drop := func(name string, n int) {
		t.Helper()
		r.write(name, line)
		eventually(t, name+" is taken", func() bool { return len(r.names()) == n })
	}
	drop("a.jsonl", 1)
	drop("q/b.jsonl", 2)
	drop("q/c.jsonl", 3)
	if err := os.Rename(r.path("q"), filepath.Join(r.dir, "q")); err != nil {
		t.Fatal(err)
	}
	drop("q/d.jsonl", 4)
	drop("q/e.jsonl", 5)
	if err := os.Rename(r.path(), filepath.Join(r.dir, "old")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loss is seen", func() bool { return r.inbox.Status().Problem != "" })
	drop("f.jsonl", 6)
	drop("g.jsonl", 7)
	if !r.inbox.Status().Watching {
		t.Error("it does not watch any more")
	}
	r.stop()
	if err := os.Rename(filepath.Join(r.dir, "old"), filepath.Join(r.dir, "inbox.old")); err != nil {
		t.Fatal(err)
	}
}

// Events that do not end, as of a large copy, do not keep other files from being taken.
func TestFloodOfEvents(t *testing.T) {
	r := newRig(t)
	r.o.Watch = func() Watcher { return NewWatcher(r.o.Dir, r.o.Logger) }
	r.o.Settle, r.o.Rescan = 10*time.Millisecond, time.Hour
	r.run()
	r.write("large.jsonl", line)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		f, err := os.OpenFile(r.path("large.part"), os.O_WRONLY|os.O_CREATE, 0o600)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				f.WriteString("x")
			}
		}
	}()
	eventually(t, "the file is taken", func() bool { return len(r.names()) == 1 })
	close(stop)
	<-done
}

// Settings that change while it runs hold for what is taken from then on.
func TestConfigure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.run()
		r.write("x.jsonl", line)
		r.pass(r.o.PollEvery / 2)
		s := r.o.Settings
		s.Settle, s.MaxLine = time.Hour, 4
		r.inbox.Configure(s)
		r.pass(time.Minute)
		r.want()
		s.Settle = time.Second
		r.inbox.Configure(s)
		synctest.Wait()
		r.want("x.jsonl")
		m, err := r.store.Meta(r.admitted[0].ID)
		if err != nil || m.MaxLine != 4 || m.Refused == nil {
			t.Errorf("a file whose only line is longer than 4 bytes is not refused: %+v, %v", m, err)
		}
		r.end(r.admitted[0])
	})
}
