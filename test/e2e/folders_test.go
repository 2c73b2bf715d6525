package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/test/figures"
	"stoker/test/rig"
)

// secret is a batch file outside of a home's folders, in a folder of its own. Nobody may so much as open it.
type secret struct {
	dir, path, text string
	watch           int
}

func keepSecret(t *testing.T) *secret {
	t.Helper()
	dir := t.TempDir()
	s := &secret{dir: dir, path: filepath.Join(dir, "x.jsonl"), text: "{\"custom_id\":\"secret\",\"prompt\":\"secret\"}\n"}
	must(t, os.WriteFile(s.path, []byte(s.text), 0o644))
	var err error
	s.watch, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { unix.Close(s.watch) })
	_, err = unix.InotifyAddWatch(s.watch, s.path, unix.IN_ALL_EVENTS)
	must(t, err)
	return s
}

// kept reports what was done to the secret.
func (s *secret) kept() error {
	var event [4096]byte
	if n, err := unix.Read(s.watch, event[:]); !errors.Is(err, unix.EAGAIN) {
		return fmt.Errorf("the file outside was touched: %d bytes of events, %v", n, err)
	}
	entries, err := os.ReadDir(s.dir)
	if len(entries) != 1 {
		err = fmt.Errorf("the folder outside holds %v, %w", entries, err)
	}
	return err
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// odd are the ways to be no regular file, of which each leads out or holds up who opens it.
func odd(s *secret) []func(path string) error {
	return []func(path string) error{
		func(path string) error { return os.Symlink(s.path, path) },
		func(path string) error { return os.Symlink("/etc/shadow", path) },
		func(path string) error { return os.Symlink(s.dir, path) },
		func(path string) error { return unix.Mkfifo(path, 0o666) },
		func(path string) error { return os.Mkdir(path, 0o777) },
		func(path string) error {
			return errors.Join(os.Mkdir(path, 0o777), os.Symlink(s.path, filepath.Join(path, "x.jsonl")))
		},
	}
}

// TestOddFilesWait proves that what is no regular file is left where it is, and named; that hidden names are never taken;
// and that a hard link is a file like any other, whose other name stays.
func TestOddFilesWait(t *testing.T) {
	t.Parallel()
	h, s := rig.NewHome(t, rig.Released, rig.Config), keepSecret(t)
	linked := rig.Input{Name: "linked.jsonl", Lines: rig.Good("linked", 3)}
	original := filepath.Join(t.TempDir(), "original")
	must(t, os.WriteFile(original, []byte(linked.Content()), 0o640))
	h.Mkdir("inbox", "q")
	must(t, os.Link(original, h.Path("inbox", linked.Name)))
	wants := map[string]string{}
	for name, plant := range map[string]func(path string) error{
		"to-file.jsonl":   func(path string) error { return os.Symlink(s.path, path) },
		"to-shadow.jsonl": func(path string) error { return os.Symlink("/etc/shadow", path) },
		"dangling.jsonl":  func(path string) error { return os.Symlink("/nowhere", path) },
		"to-folder":       func(path string) error { return os.Symlink(s.dir, path) },
		"pipe.jsonl":      func(path string) error { return unix.Mkfifo(path, 0o666) },
		"q/deep.jsonl":    func(path string) error { return os.Mkdir(path, 0o777) },
		"terminal.jsonl":  func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))) },
	} {
		must(t, plant(h.Path("inbox", name)))
		wants[filepath.Base(name)] = map[string]string{
			"pipe.jsonl": "pipe", "q/deep.jsonl": "folders this deep", "terminal.jsonl": "device",
		}[name]
		if wants[filepath.Base(name)] == "" {
			wants[filepath.Base(name)] = "symbolic link"
		}
	}
	hidden := []string{".jsonl", "..jsonl", "...jsonl", "q/..jsonl"}
	for _, name := range hidden {
		h.Write(filepath.Join("inbox", name), linked.Content())
	}
	h.Start()
	must(t, h.Await("the hard link's end", func() bool { _, err := os.Stat(h.Path("archive/done", linked.Name)); return err == nil }))
	var st rig.Status
	must(t, h.Await("nothing to wait", func() bool {
		st, _ = rig.Report[rig.Status](h, "status")
		return len(st.Inbox.Ignored) > 0 && len(st.Inbox.Waiting) == 0
	}))
	for _, w := range st.Inbox.Ignored {
		name := fmt.Sprint(w.Name)
		if want := wants[name]; want == "" || !strings.Contains(w.Reason, want) {
			t.Errorf("%s is ignored because %q, want %q", name, w.Reason, want)
		}
		delete(wants, name)
	}
	if len(wants) > 0 {
		t.Errorf("status does not name %v", wants)
	}
	for _, name := range hidden {
		must(t, os.Remove(h.Path("inbox", name)))
	}
	for _, pattern := range []string{"*.jsonl", "q/*.jsonl"} {
		for _, path := range rig.Glob(t, h.Path("inbox", pattern)) {
			must(t, os.Remove(path))
		}
	}
	if err := errors.Join(h.End(linked), s.kept()); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(original); err != nil || string(b) != linked.Content() {
		t.Errorf("the original: %v", err)
	}
	if st, err := os.Stat(original); err != nil || st.Mode() != 0o640 {
		t.Errorf("the original: %v, %v", st.Mode(), err)
	}
}

// TestQueueSwapped proves that a queue's folder which becomes a link while its files settle leads nowhere, and that they
// run once it is a folder again.
func TestQueueSwapped(t *testing.T) {
	t.Parallel()
	h, s := rig.NewHome(t, rig.Released, strings.Replace(rig.Config, `settle = "100ms"`, `settle = "1s"`, 1)), keepSecret(t)
	in := rig.Input{Name: "q/x.jsonl", Lines: rig.Good("q", 3)}
	h.Start()
	must(t, h.AwaitAnswer())
	h.Drop(in.Name, in.Content())
	h.AwaitState("settling", 1)
	must(t, os.Rename(h.Path("inbox/q"), h.Path("away")))
	must(t, os.Symlink(s.dir, h.Path("inbox/q")))
	must(t, h.Await("the link to be told", func() bool {
		out, _ := h.Stoker("status")
		return strings.Contains(out, `"q" ignored: a symbolic link`)
	}))
	h.AwaitState("settling", 0)
	must(t, os.Remove(h.Path("inbox/q")))
	must(t, os.Rename(h.Path("away"), h.Path("inbox/q")))
	if err := errors.Join(h.End(in), s.kept()); err != nil {
		t.Error(err)
	}
}

// TestSwapper proves that files which are exchanged for links, pipes and folders, and back, over and over while stoker
// takes them at once, run once each, and that nothing outside is touched.
func TestSwapper(t *testing.T) {
	t.Parallel()
	began := time.Now()
	h, s := rig.NewHome(t, rig.Released, "[inbox]\nready = \"rename\"\nrescan = \"100ms\"\n[log]\nlevel = \"debug\"\n[engine]\nkind = \"echo\"\n"), keepSecret(t)
	h.Mkdir("stage")
	h.Mkdir("inbox", "q")
	draw := rig.Random(t)
	const files, rounds = 200, 100
	var inputs []rig.Input
	var group sync.WaitGroup
	h.Start()
	must(t, h.AwaitAnswer())
	var swaps, claimed int
	var mu sync.Mutex
	for n := range files {
		in := rig.Input{Name: fmt.Sprintf("%sf%d.jsonl", []string{"", "q/"}[n%2], n), Lines: rig.Good(fmt.Sprint("f", n), 2)}
		inputs = append(inputs, in)
		real, plant := h.Path("stage", fmt.Sprint("real", n)), h.Path("stage", fmt.Sprint("plant", n))
		must(t, os.WriteFile(real, []byte(in.Content()), 0o644))
		seed := draw.Uint64()
		group.Go(func() {
			a, b := swap(h.Path("inbox", in.Name), real, plant, odd(s), rounds, rand.New(rand.NewPCG(seed, 0)))
			mu.Lock()
			defer mu.Unlock()
			swaps, claimed = swaps+a, claimed+b
		})
	}
	group.Wait()
	if _, err := os.Stat(h.Path("stage/real0")); err == nil {
		t.Error("a file never came into the inbox")
	}
	must(t, h.Await("only odd files", func() bool { return len(regular(h.InboxFiles())) == 0 }))
	given := 0
	for _, path := range h.InboxFiles() {
		if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() && !strings.Contains(path, ".processing") {
			given++
			must(t, os.RemoveAll(path))
		}
	}
	t.Logf("%d swaps, %d times the odd one was gone from the inbox, %d were there at the end", swaps, claimed, given)
	if claimed == 0 {
		t.Error("no swap came between settling and claim")
	}
	if err := errors.Join(h.End(inputs...), s.kept()); err != nil {
		t.Error(err)
	}
	count, err := h.Tally(inputs...)
	must(t, err)
	figures.Report(t, figures.Figures{
		Suite: "files swapped under the inbox's hands", Count: swaps, Lost: count.Lost, Doubled: count.Doubled,
		Note: fmt.Sprintf("%d files; nothing outside opened", files), Seconds: int(time.Since(began).Seconds()),
	})
}

// swap puts a file into the inbox and exchanges it for something else and back, until stoker has it. It counts the
// exchanges, and how often stoker took the other thing.
func swap(name, real, plant string, odd []func(string) error, rounds int, draw *rand.Rand) (swaps, taken int) {
	pause := func() { time.Sleep(time.Duration(draw.IntN(3_000)) * time.Microsecond) }
	put := func() { // whatever stands there: it is one of the others, given back
		for unix.Renameat2(unix.AT_FDCWD, real, unix.AT_FDCWD, name, unix.RENAME_NOREPLACE) != nil {
			os.RemoveAll(name)
		}
	}
	put()
	for range rounds {
		pause()
		os.RemoveAll(plant)
		if odd[draw.IntN(len(odd))](plant) != nil {
			return
		}
		if unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, plant, unix.RENAME_EXCHANGE) != nil {
			os.RemoveAll(plant)
			return // stoker has it
		}
		swaps++
		if st, err := os.Lstat(plant); err != nil || !st.Mode().IsRegular() {
			os.RemoveAll(plant) // another one that was given back: stoker has the file
			return
		}
		os.Rename(plant, real)
		pause()
		if err := unix.Renameat2(unix.AT_FDCWD, real, unix.AT_FDCWD, name, unix.RENAME_EXCHANGE); err != nil {
			taken++
			put()
			continue
		}
		swaps++
		os.Rename(real, plant)
	}
	return swaps, taken
}

func regular(paths []string) (files []string) {
	for _, path := range paths {
		if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() {
			files = append(files, path)
		}
	}
	return files
}

// TestPlantedInOutbox proves that the names of results which somebody takes while a batch runs stay theirs.
func TestPlantedInOutbox(t *testing.T) {
	t.Parallel()
	h, s := rig.NewHome(t, rig.Released, rig.Config+"delay = \"4s\"\n"), keepSecret(t)
	mine := h.Path("mine") // linked under a result's name
	h.Write("mine", "mine")
	in := rig.Input{Name: "q/x.jsonl", Lines: append(rig.Good("x", 3), rig.Bad("x")...)}
	h.Start()
	h.Drop(in.Name, in.Content())
	must(t, h.Await("requests in flight", func() bool { st, _ := rig.Report[rig.Status](h, "status"); return st.Engine.InFlight == 3 }))
	list, _ := rig.Report[struct{ Batches []struct{ ID string } }](h, "list")
	id := list.Batches[0].ID
	h.Mkdir("outbox", "q")
	theirs := map[string]fs.FileInfo{}
	for suffix, plant := range map[string]func(path string) error{
		".output.jsonl": func(path string) error { return os.Symlink(s.path, path) },
		".errors.jsonl": func(path string) error { return unix.Mkfifo(path, 0o666) },
		".batch.json":   func(path string) error { return os.Link(mine, path) },
		".status.txt":   func(path string) error { return os.Symlink(s.path, path) },
	} {
		path := h.Path("outbox/q/x" + suffix)
		must(t, plant(path))
		st, err := os.Lstat(path)
		must(t, err)
		theirs[path] = st
	}
	for _, suffix := range []string{".output.jsonl", ".errors.jsonl", ".batch.json"} {
		for _, end := range []string{".tmp", ".tmp.part"} {
			must(t, os.Symlink(s.path, h.Path("outbox/q/.stoker-"+id+suffix+end)))
		}
	}
	must(t, h.AwaitIdle())
	must(t, h.Stop())
	_, err := h.Verify()
	known := map[string]bool{h.Path("archive/done/q/x.jsonl"): true}
	if err := errors.Join(err, h.JudgeBatch(&in, h.Path("outbox/q/x~2"), known), h.JudgeLeftovers(), s.kept()); err != nil {
		t.Error(err)
	}
	for path, before := range theirs {
		if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) || after.Mode() != before.Mode() {
			t.Errorf("%s was replaced: %v", path, err)
		}
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
		t.Errorf("somebody's file holds %q, %v", b, err)
	}
}

// TestOutboxLink proves that a link to another disk in place of a queue's results is refused in words, and nothing lost.
func TestOutboxLink(t *testing.T) {
	t.Parallel()
	h, s := rig.NewHome(t, rig.Released, rig.Config), keepSecret(t)
	in := rig.Input{Name: "q/x.jsonl", Lines: rig.Good("x", 3)}
	h.Mkdir("outbox")
	must(t, os.Symlink(s.dir, h.Path("outbox/q")))
	h.Start()
	h.Drop(in.Name, in.Content())
	must(t, h.Await("the reason in status", func() bool {
		out, _ := h.Stoker("status")
		return strings.Contains(out, "outbox/q/x.batch.json: a symbolic link leads outside of the folders that are configured")
	}))
	must(t, os.Remove(h.Path("outbox/q")))
	if err := errors.Join(h.End(in), s.kept()); err != nil {
		t.Error(err)
	}
}

// umask makes a home's stoker run under another umask.
func umask(t *testing.T, h *rig.Home, mask string) {
	t.Helper()
	script := h.Path("stoker.sh")
	must(t, os.WriteFile(script, []byte("#!/bin/sh\numask "+mask+"\nexec "+h.Binary+" \"$@\"\n"), 0o755))
	h.Binary = script
}

// TestSharedWithGroup proves that what stoker makes in folders that a group shares is the group's, however narrow the
// service's umask is.
func TestSharedWithGroup(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config+"delay = \"4s\"\n[outbox]\nmode = \"0660\"\n")
	umask(t, h, "0077")
	in := rig.Input{Name: "q/x.jsonl", Lines: append(rig.Good("x", 3), rig.Bad("x")...), Copies: 2}
	const group = 4711
	for _, dir := range []string{"inbox", "outbox", "archive"} {
		h.Mkdir(dir)
		must(t, errors.Join(os.Chown(h.Path(dir), -1, group), os.Chmod(h.Path(dir), 0o770|fs.ModeSetgid)))
	}
	h.Start()
	h.Drop(in.Name, in.Content())
	must(t, h.Await("requests in flight", func() bool { st, _ := rig.Report[rig.Status](h, "status"); return st.Engine.InFlight == 3 }))
	h.Drop(in.Name, in.Content()) // a duplicate
	if err := h.End(in); err != nil {
		t.Error(err)
	}
	seen := 0
	for _, root := range []string{"outbox", "archive"} {
		filepath.WalkDir(h.Path(root), func(path string, e fs.DirEntry, err error) error {
			must(t, err)
			st, err := e.Info()
			must(t, err)
			want := fs.FileMode(0o660)
			switch {
			case e.IsDir():
				want = fs.ModeDir | fs.ModeSetgid | 0o770
			case strings.HasSuffix(path, "duplicate.json"):
				want = 0o664
			case root == "archive":
				want = 0o644 // as it was dropped
			}
			if gid := st.Sys().(*syscall.Stat_t).Gid; gid != group || st.Mode() != want {
				t.Errorf("%s is %v of group %d, want %v", path, st.Mode(), gid, want)
			}
			seen++
			return nil
		})
	}
	if seen != 2+3+1+2+2+3 {
		t.Errorf("%d files and folders", seen)
	}
}

// TestOthersFolders proves that a stoker which may not write to the inbox says so and loses nothing, and that it publishes
// into an outbox that anybody may write to, but where nobody may remove what is another's.
func TestOthersFolders(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config)
	in := rig.Input{Name: "x.jsonl", Lines: rig.Good("x", 3)}
	h.Mkdir("outbox")
	h.GiveTo(65534) // nobody
	root := os.Geteuid()
	must(t, errors.Join(os.Chown(h.Path("outbox"), root, root), os.Chmod(h.Path("outbox"), 0o777|fs.ModeSticky)))
	must(t, errors.Join(os.Chown(h.Path("inbox"), root, root), os.Chmod(h.Path("inbox"), 0o755)))
	h.Drop(in.Name, in.Content())
	h.Start()
	must(t, h.Await("the reason in status", func() bool {
		out, _ := h.Stoker("status")
		return strings.Contains(out, `"x.jsonl" waiting: cannot be claimed: permission denied: 'chgrp nogroup `+h.Path("inbox")+` && chmod g+w `+h.Path("inbox")+`' lets stoker`)
	}))
	must(t, os.Chmod(h.Path("inbox"), 0o777|fs.ModeSticky)) // now it may make files, but not rename others'
	must(t, h.Await("the reason in status", func() bool {
		out, _ := h.Stoker("status")
		return strings.Contains(out, `"x.jsonl" waiting: cannot be claimed: operation not permitted`)
	}))
	must(t, os.Chmod(h.Path("inbox"), 0o777))
	if err := h.End(in); err != nil {
		t.Error(err)
	}
}

// control finds what does something to a terminal, or stands for what is not text.
var control = regexp.MustCompile(`[\x00-\x08\x0b-\x1f\x7f]|\x{9b}|\x{202e}`)

// TestTerminal proves that no name that somebody gives a file or folder does anything to the terminal of who looks.
func TestTerminal(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config)
	h.GiveTo(65534) // whom permissions stop
	const evil = "\x1b]0;owned\x07\x1b[2J\u009b31m\u202e\rgone\nengine   ready"
	in := rig.Input{Name: evil + "/" + evil + ".jsonl", Lines: rig.Good("x", 3)}
	h.Drop(in.Name, in.Content())
	h.Drop(evil+".jsonl", "no JSON \x1b[2J\n")
	h.Mkdir("inbox", ".processing", evil, "batch")
	h.Write(filepath.Join("inbox", ".processing", evil, "batch", "x.jsonl"), in.Content())
	for _, name := range []string{evil + "1.txt", evil + "2.jsonl"} {
		must(t, os.Symlink("/nowhere", h.Path("inbox", name)))
	}
	h.Mkdir("inbox", evil+"3")
	must(t, os.Chmod(h.Path("inbox", evil+"3"), 0))
	must(t, errors.Join(os.Chown(h.Path("inbox", ".processing"), 65534, 65534), os.Chown(h.Path("inbox", evil), 65534, 65534)))
	h.Mkdir("outbox")
	must(t, os.Symlink("/nowhere", h.Path("outbox", evil))) // which its results cannot go to
	must(t, os.Chown(h.Path("outbox"), 65534, 65534))
	h.Start()
	must(t, h.Await("a batch that cannot be published", func() bool {
		out, _ := h.Stoker("status")
		return strings.Contains(out, "a symbolic link leads outside")
	}))
	for _, args := range [][]string{{"status"}, {"list"}, {"show", evil}, {"show", evil + ".jsonl"}, {"show", "none" + evil}, {"verify"}, {"check", h.Path(evil)}} {
		cmd := h.Command(args...)
		out, _ := cmd.CombinedOutput()
		if found := control.FindString(string(out)); found != "" || strings.Contains(string(out), "\nengine   ready\n") || len(out) == 0 {
			t.Errorf("stoker %q writes %q in %q", args, found, out)
		}
	}
	must(t, os.Remove(h.Path("outbox", evil)))
	must(t, h.Await("its end", func() bool { return len(rig.Glob(t, h.Path("archive/done/*/*.jsonl"))) == 1 }))
	must(t, h.Stop())
	if _, err := h.Verify(); err != nil {
		t.Error(err)
	}
	if err := h.JudgeBatch(&in, h.Path("outbox", evil, evil), map[string]bool{}); err != nil {
		t.Error(err)
	}
}

// TestUnmountWhileIdle proves that a stoker with nothing to do keeps no share from being unmounted, and goes on when it is
// back.
func TestUnmountWhileIdle(t *testing.T) {
	t.Parallel()
	h := rig.NewHome(t, rig.Released, rig.Config)
	var inputs []rig.Input
	shares := []string{"inbox", "outbox", "archive"}
	for _, name := range shares {
		h.Mkdir(name)
		h.Mkdir("disk", name)
	}
	mount := func() {
		for _, name := range shares {
			must(t, unix.Mount(h.Path("disk", name), h.Path(name), "", unix.MS_BIND, ""))
		}
	}
	t.Cleanup(func() {
		for _, name := range shares {
			unix.Unmount(h.Path(name), unix.MNT_DETACH)
		}
	})
	mount()
	h.Start()
	for n := range 3 {
		in := rig.Input{Name: fmt.Sprintf("q/x%d.jsonl", n), Lines: rig.Good(fmt.Sprint("x", n), 3)}
		inputs = append(inputs, in)
		h.Drop(in.Name, in.Content())
		must(t, h.AwaitIdle())
		for _, name := range shares {
			// A scan may be under way at this instant, but not at each.
			must(t, h.Await("unmount "+name, func() bool { return unix.Unmount(h.Path(name), 0) == nil }))
		}
		mount()
	}
	if err := h.End(inputs...); err != nil {
		t.Error(err)
	}
}
