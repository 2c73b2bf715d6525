package inbox

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"stoker/daemon/share"
	"stoker/store"
	"stoker/store/durable"
	"stoker/test/faultfs"
)

// Whatever fails once on the share while a file is taken, and its input archived: it is neither lost nor taken twice.
func TestEveryFaultOfTheShareIsWaitedOut(t *testing.T) {
	faultfs.EachOnce(t, func(t *testing.T, fault *faultfs.Once) {
		bubble(t, func(r *rig) {
			faulty := faultfs.New(durable.Local{})
			faulty.Set(fault.Fails)
			r.o.FS = faulty
			r.write("q/x.jsonl", line)
			r.run()
			r.pass(2 * time.Minute)
			r.want("q/x.jsonl")
			if len(r.admitted) != 1 {
				t.Fatalf("%s: taken %d times", fault, len(r.admitted))
			}
			if fault.Op != faultfs.ReadDir && fault.Op != faultfs.Stat { // of which a scan does many
				r.end(r.admitted[0])
				r.pass(2 * time.Minute)
				r.wantTree("archive", "done/q/x.jsonl")
				r.wantTree("inbox")
			}
			if err := r.store.Fault(); err != nil {
				t.Errorf("%s, and the state is blamed: %v", fault, err)
			}
		})
	})
}

// hangingOn is a filesystem on which everything below a folder hangs until it is released.
func hangingOn(dir string) (fs *faultfs.FS, release func()) {
	going := make(chan struct{})
	fs = faultfs.New(durable.Local{})
	fs.Set(func(_ faultfs.Op, path string) error {
		if strings.HasPrefix(path, dir) {
			<-going
		}
		return nil
	})
	return fs, func() { close(going) }
}

// An outbox that hangs, or fails, holds up no admission for long.
func TestOutboxDoesNotAnswer(t *testing.T) {
	bubble(t, func(r *rig) {
		release := make(chan struct{})
		asked := 0
		r.o.NameTaken = func(string, store.FileName) (bool, error) {
			asked++
			if asked > 1 {
				return false, unix.ESTALE
			}
			<-release
			return false, nil
		}
		r.write("x.jsonl", line)
		r.run()
		r.pass(r.o.Settle + share.Patience + time.Second)
		r.want("x.jsonl")
		r.write("y.jsonl", line)
		r.pass(r.o.Settle + 3*time.Second)
		r.want("x.jsonl", "y.jsonl")
		close(release)
	})
}

// An archive that hangs holds up neither scanning nor taking, and status says what waits for it.
func TestArchiveHangs(t *testing.T) {
	bubble(t, func(r *rig) {
		faulty, release := hangingOn(r.o.Archive)
		r.o.FS = faulty
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		r.end(r.admitted[0])
		r.write("y.jsonl", line)
		r.write("y.jsonl.tmp", "")
		r.pass(time.Minute)
		r.want("x.jsonl", "y.jsonl")
		if s := r.inbox.Status(); s.Archive.Waiting != 1 || time.Since(s.Scanned) > r.o.PollEvery {
			t.Errorf("status is %+v", s)
		}
		release()
		r.pass(time.Minute)
		r.wantTree("archive", "done/x.jsonl")
	})
}

// Whoever asks whether an input has changed is answered, though the inbox is not.
func TestChangedWhileTheInboxHangs(t *testing.T) {
	bubble(t, func(r *rig) {
		r.write("x.jsonl", line)
		r.run()
		r.pass(5 * time.Second)
		r.stop()
		faulty, release := hangingOn(r.path())
		hung := r.o
		hung.FS = share.New(faulty, share.Folder{Name: "inbox", Dir: r.path()})
		in := New(hung)
		began := time.Now()
		for range 100 {
			if in.Changed(r.admitted[0]) {
				t.Error("changed, says an inbox that does not answer")
			}
		}
		if d := time.Since(began); d > share.Patience+time.Second {
			t.Errorf("that took %s", d)
		}
		release()
		synctest.Wait()
		r.run()
	})
}

// A file that the state has no room for stays in the inbox and says why; it is taken within seconds once there is room.
func TestStateHasNoRoom(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	bubble(t, func(r *rig) {
		s, err := store.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r.o.Store = s
		fill := dir + "/fill"
		if err := os.WriteFile(fill, make([]byte, 14<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		r.write("large.jsonl", strings.Repeat(line, 200_000)) // 3.2 MB
		r.write("small.jsonl", line)
		r.write("huge.jsonl", strings.Repeat(line, 1_200_000)) // 19 MB
		r.run()
		r.pass(10 * time.Second)
		r.want("small.jsonl")
		r.wantReason("huge.jsonl", dir+" never has room for it: about 19 MiB are needed, and its filesystem has 16 MiB in all")
		if err := os.Remove(r.path("huge.jsonl")); err != nil {
			t.Fatal(err)
		}
		r.pass(5 * time.Second)
		r.wantReason("large.jsonl", dir+" is full: about 4.1 MiB are needed, ")
		if st := r.inbox.Status(); st.Held != 1 || st.Lacks == nil {
			t.Errorf("status is %+v", st)
		}
		r.wantTree("inbox", ".processing/"+s.Instance()+"/"+r.admitted[0].ID+"/small.jsonl", "large.jsonl")
		if err := os.Remove(fill); err != nil {
			t.Fatal(err)
		}
		r.pass(5 * time.Second)
		r.want("small.jsonl", "large.jsonl")
		if st := r.inbox.Status(); st.Held != 0 || st.Lacks != nil {
			t.Errorf("status is %+v", st)
		}
		r.stop()
		r.stop = func() {}
	})
}

// Claims that cannot be read are told of once, not at each look, in the log and as long as it lasts in status.
func TestClaimsCannotBeRead(t *testing.T) {
	bubble(t, func(r *rig) {
		var log bytes.Buffer
		faulty := faultfs.New(durable.Local{})
		faulty.Set(failing(unix.ENODEV, func(op faultfs.Op, path string) bool {
			return op == faultfs.ReadDir && strings.HasSuffix(path, r.store.Instance())
		}))
		r.o.FS, r.o.Logger = faulty, zerolog.New(&log)
		r.write("x.jsonl", line)
		r.run()
		r.pass(time.Minute)
		r.want()
		if p := r.inbox.Status().Problem; !strings.Contains(p, "read claims: ") {
			t.Errorf("status says %q", p)
		}
		faulty.Set(nil)
		r.pass(time.Minute)
		r.want("x.jsonl")
		r.stop()
		if n := strings.Count(log.String(), "no such device"); n != 1 {
			t.Errorf("the log tells of it %d times:\n%s", n, log.String())
		}
	})
}
