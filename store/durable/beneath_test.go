package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// shared is two folders that Beneath may work in, and one outside of them with a secret.
type shared struct {
	in, out, outside, secret string
	fs                       Beneath
}

func newShared(t *testing.T) *shared {
	t.Helper()
	dir := t.TempDir()
	s := &shared{in: filepath.Join(dir, "in"), out: filepath.Join(dir, "out"), outside: filepath.Join(dir, "outside")}
	for _, d := range []string{s.in, s.out, s.outside} {
		must(t, os.Mkdir(d, 0o755))
	}
	s.secret = write(t, filepath.Join(s.outside, "secret"), "secret")
	s.fs = Beneath{s.in, s.out}
	return s
}

// operations are all that a path can be used for. Each one that succeeds changes nothing outside by itself.
func (s *shared) operations() map[string]func(path string) error {
	other := filepath.Join(s.out, "other")
	return map[string]func(path string) error{
		"open": func(path string) error { return closed(s.fs.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)) },
		"create": func(path string) error {
			return closed(s.fs.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NONBLOCK, 0o600))
		},
		"regular":    func(path string) error { return closed(OpenRegular(s.fs, path)) },
		"read":       func(path string) error { _, err := ReadFile(s.fs, path); return err },
		"hash":       func(path string) error { _, _, err := Hash(s.fs, path); return err },
		"write":      func(path string) error { return WriteFile(s.fs, path, []byte("overwritten"), 0o600) },
		"stat":       func(path string) error { _, err := s.fs.Stat(path); return err },
		"lstat":      func(path string) error { _, err := s.fs.Lstat(path); return err },
		"readdir":    func(path string) error { _, err := s.fs.ReadDir(path); return err },
		"mkdir":      func(path string) error { return s.fs.Mkdir(path, 0o755) },
		"remove":     func(path string) error { return s.fs.Remove(path) },
		"removeall":  func(path string) error { return s.fs.RemoveAll(path) },
		"rename":     func(path string) error { return s.fs.Rename(path, other) },
		"renamenew":  func(path string) error { return s.fs.RenameNew(path, other) },
		"rename to":  func(path string) error { return s.fs.Rename(s.file(path), path) },
		"move to":    func(path string) error { return Move(s.fs, s.file(path), path) },
		"sync":       func(path string) error { return s.fs.SyncDir(path) },
		"move":       func(path string) error { return Move(s.fs, path, other) },
		"copy":       func(path string) error { return Copy(s.fs, path, other) },
		"mkdir -p":   func(path string) error { return MkdirAll(s.fs, path, 0o755) },
		"new + file": func(path string) error { return closed(Create(s.fs, path, 0o600)) },
	}
}

// file makes a file that an operation may move somewhere.
func (s *shared) file(string) string {
	path := filepath.Join(s.out, "mine")
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		panic(err)
	}
	return path
}

func closed(f File, err error) error {
	if err != nil {
		return err
	}
	return f.Close()
}

// checkOutside checks that nothing outside was touched.
func (s *shared) checkOutside(t *testing.T) {
	t.Helper()
	check(t, s.secret, "secret")
	checkNames(t, s.outside, "secret")
	if st, err := os.Stat(s.outside); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("the folder outside: %v, %v", st.Mode(), err)
	}
}

// What is not below the folders is refused, whatever is asked for.
func TestBeneathRefusesOtherPaths(t *testing.T) {
	s := newShared(t)
	for _, path := range []string{
		s.secret, s.outside, filepath.Dir(s.in), "/", "/etc/shadow", "", ".", "in/x",
		s.in + "/../outside/secret", s.in + "/..", s.in + "x", s.in + "/../in/../outside/new",
	} {
		for name, do := range s.operations() {
			if err := do(path); !errors.Is(err, ErrOutside) {
				t.Errorf("%s %q: %v", name, path, err)
			}
		}
	}
	s.checkOutside(t)
}

// A link in place of any folder on the way leads nowhere, whatever is asked for.
func TestBeneathFollowsNoLinkOut(t *testing.T) {
	for title, target := range map[string]func(s *shared) string{
		"absolute":            func(s *shared) string { return s.outside },
		"relative":            func(*shared) string { return "../outside" },
		"through the folder":  func(*shared) string { return "../in/../outside" },
		"into the other root": func(s *shared) string { return s.out },
		"absolute, inside":    func(s *shared) string { return filepath.Join(s.in, "real") }, // os.Root follows relative ones alone
		"by another link":     func(*shared) string { return "hop" },
	} {
		t.Run(title, func(t *testing.T) {
			s := newShared(t)
			must(t, errors.Join(os.MkdirAll(filepath.Join(s.in, "real", "below"), 0o755), os.Symlink("../outside", filepath.Join(s.in, "hop"))))
			link := filepath.Join(s.in, "link")
			must(t, os.Symlink(target(s), link))
			for name, do := range s.operations() {
				for _, path := range []string{"secret", "new", "below/secret"} {
					if err := do(filepath.Join(link, path)); !errors.Is(err, ErrOutside) {
						t.Errorf("%s of %s behind the link: %v", name, path, err)
					}
				}
			}
			s.checkOutside(t)
		})
	}
}

// A link in the last place is what it is: it can be looked at, renamed and removed, and not read, written or entered.
func TestBeneathLinkInTheLastPlace(t *testing.T) {
	harmless := map[string]bool{"lstat": true, "remove": true, "removeall": true, "rename": true, "renamenew": true, "move": true, "write": true, "rename to": true, "new + file": true}
	for title, target := range map[string]func(s *shared) string{
		"to a file":   func(s *shared) string { return s.secret },
		"to a folder": func(s *shared) string { return s.outside },
		"dangling":    func(s *shared) string { return filepath.Join(s.outside, "new") },
		"relative":    func(*shared) string { return "../outside/secret" },
		"to itself":   func(*shared) string { return "link" },
	} {
		for name := range newShared(t).operations() {
			s := newShared(t)
			link := filepath.Join(s.in, "link")
			must(t, os.Symlink(target(s), link))
			if err := s.operations()[name](link); (err == nil) != harmless[name] {
				t.Errorf("%s of a link %s: %v", name, title, err)
			}
			s.checkOutside(t)
		}
	}
}

// A relative link that stays in its folder is followed on the way, never in the last place.
func TestBeneathLinkInside(t *testing.T) {
	s := newShared(t)
	must(t, errors.Join(os.Mkdir(filepath.Join(s.in, "real"), 0o755), os.Symlink("real", filepath.Join(s.in, "link"))))
	write(t, filepath.Join(s.in, "real", "x"), "text")
	if b, err := ReadFile(s.fs, filepath.Join(s.in, "link", "x")); err != nil || string(b) != "text" {
		t.Errorf("read %q, %v", b, err)
	}
	must(t, os.Symlink("x", filepath.Join(s.in, "real", "y")))
	if err := closed(s.fs.OpenFile(filepath.Join(s.in, "link", "y"), os.O_RDONLY, 0)); !errors.Is(err, unix.ELOOP) {
		t.Errorf("in the last place: %v", err)
	}
}

// The configured folders themselves are the administrator's: they may be links.
func TestBeneathRootIsALink(t *testing.T) {
	s := newShared(t)
	link := filepath.Join(filepath.Dir(s.in), "by-link")
	must(t, os.Symlink("in", link))
	fsys := Beneath{link, s.out}
	must(t, WriteFile(fsys, filepath.Join(link, "x"), []byte("text"), 0o640))
	check(t, filepath.Join(s.in, "x"), "text")
	must(t, Move(fsys, filepath.Join(link, "x"), filepath.Join(s.out, "x")))
	check(t, filepath.Join(s.out, "x"), "text")
	if err := closed(fsys.OpenFile(filepath.Join(s.in, "y"), os.O_WRONLY|os.O_CREATE, 0o600)); !errors.Is(err, ErrOutside) {
		t.Errorf("by a name that is not configured: %v", err)
	}
}

// A folder that somebody swaps for a link, over and over, is either the folder or an error.
func TestBeneathSwappedFolder(t *testing.T) {
	s := newShared(t)
	dir := filepath.Join(s.in, "q")
	must(t, os.Mkdir(dir, 0o755))
	write(t, filepath.Join(dir, "secret"), "mine")
	link := filepath.Join(s.in, "link")
	must(t, os.Symlink(s.outside, link))
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swaps := 0
	swapper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// By exchange there is no instant without one of them.
			unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			swaps++
		}
	})
	reached, refused := 0, 0
	for n := 0; n < 20_000 && (n < 2_000 || reached == 0 || refused == 0); n++ {
		b, err := ReadFile(s.fs, filepath.Join(dir, "secret"))
		if err == nil && string(b) != "mine" {
			t.Fatalf("read %q", b)
		}
		err = errors.Join(err, WriteFile(s.fs, filepath.Join(dir, "secret"), []byte("mine"), 0o600), s.fs.SyncDir(dir))
		if err == nil {
			reached++
		} else if errors.Is(err, ErrOutside) {
			refused++
		}
		_ = s.fs.RenameNew(filepath.Join(dir, "secret"), filepath.Join(dir, "moved"))
		_ = s.fs.RenameNew(filepath.Join(dir, "moved"), filepath.Join(dir, "secret"))
		_ = s.fs.Mkdir(filepath.Join(dir, "new"), 0o755)
		_ = s.fs.RemoveAll(filepath.Join(dir, "new"))
	}
	close(stop)
	swapper.Wait()
	t.Logf("%d swaps; reached %d times, refused %d times", swaps, reached, refused)
	if reached == 0 || refused == 0 {
		t.Error("the swaps were not seen")
	}
	s.checkOutside(t)
}

// plants are what is no regular file.
func plants(t *testing.T) map[string]func(path string) error {
	t.Helper()
	all := map[string]func(path string) error{
		"pipe":   func(path string) error { return unix.Mkfifo(path, 0o666) },
		"folder": func(path string) error { return os.Mkdir(path, 0o755) },
		"link":   func(path string) error { return os.Symlink("/etc/passwd", path) },
		"socket": func(path string) error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err != nil {
				return err
			}
			t.Cleanup(func() { unix.Close(fd) })
			return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
		},
	}
	if os.Geteuid() == 0 {
		all["terminal"] = func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(5, 0))) }
		all["zeros"] = func(path string) error { return unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) }
		all["disk"] = func(path string) error { return unix.Mknod(path, unix.S_IFBLK|0o666, int(unix.Mkdev(7, 200))) }
	}
	return all
}

// What is no regular file is told at once, where a file is to be read and where a folder is on the way.
func TestBeneathOddFiles(t *testing.T) {
	for title, plant := range plants(t) {
		t.Run(title, func(t *testing.T) {
			t.Chdir(t.TempDir()) // a socket's name must be short
			in, err := os.Getwd()
			must(t, err)
			must(t, plant("odd"))
			fsys, odd := Beneath{in}, filepath.Join(in, "odd")
			for name, err := range map[string]error{
				"open": closed(OpenRegular(fsys, odd)), "read": second(ReadFile(fsys, odd)), "copy": Copy(fsys, odd, odd+".copy"),
			} {
				if !errors.Is(err, ErrNotRegular) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if title == "folder" {
				return
			}
			_, err = fsys.ReadDir(odd)
			for name, err := range map[string]error{
				"list": err, "sync": fsys.SyncDir(odd), "open below": closed(fsys.OpenFile(odd+"/x", os.O_RDONLY, 0)),
				"rename below": fsys.Rename(odd+"/x", odd+"/y"), "mkdir below": fsys.Mkdir(odd+"/x", 0o755),
			} {
				if !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, ErrOutside) {
					t.Errorf("%s: %v", name, err)
				}
			}
			must(t, fsys.Rename(odd, odd+"2"))
			must(t, fsys.Remove(odd+"2"))
		})
	}
}

func second[T any](_ T, err error) error { return err }

// A pipe that takes the place of a file after it was looked at does not hold up its reader.
func TestOpenRegularIsQuickerThanAPipe(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	must(t, unix.Mkfifo(path, 0o600))
	fsys := stale{Beneath{dir}, write(t, filepath.Join(dir, "file"), "")}
	if err := closed(OpenRegular(fsys, path)); !errors.Is(err, ErrNotRegular) {
		t.Errorf("opened: %v", err)
	}
}

// stale is a filesystem that looks at a file which was another one a moment ago.
type stale struct {
	Beneath
	before string
}

func (s stale) Lstat(string) (fs.FileInfo, error) { return s.Beneath.Lstat(s.before) }

// A hard link is a file like any other: its other names stay.
func TestBeneathHardLink(t *testing.T) {
	s := newShared(t)
	path, to := filepath.Join(s.in, "x"), filepath.Join(s.out, "x")
	must(t, os.Link(s.secret, path))
	if b, err := ReadFile(s.fs, path); err != nil || string(b) != "secret" {
		t.Errorf("read %q, %v", b, err)
	}
	must(t, WriteFile(s.fs, path, []byte("new"), 0o600))
	must(t, os.Remove(path))
	must(t, os.Link(s.secret, path))
	must(t, Move(s.fs, path, to))
	must(t, closed(Create(s.fs, to, 0o600)))
	s.checkOutside(t)
}

// All that a filesystem takes as a name works, and comes back from ReadDir as it was given.
func TestBeneathNames(t *testing.T) {
	s := newShared(t)
	for _, name := range []string{
		"two\nlines", "caf\xe9", "\x1b[31mred", "...", "..x", "-rf", " ", "~", "\\", strings.Repeat("x", 255), strings.Repeat("ü", 127) + "x", strings.Repeat("\xff", 255),
	} {
		path, to := filepath.Join(s.in, name), filepath.Join(s.out, name)
		f, err := Create(s.fs, path, 0o600)
		must(t, err)
		must(t, f.Close())
		entries, err := s.fs.ReadDir(s.in)
		must(t, err)
		if len(entries) != 1 || entries[0].Name() != name || f.Name() != path {
			t.Errorf("%q came back as %v, opened as %q", name, entries, f.Name())
		}
		must(t, Move(s.fs, path, to))
		if err := s.fs.RenameNew(to, to); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%q is not there: %v", name, err)
		}
		must(t, s.fs.Remove(to))
	}
	long := filepath.Join(s.in, strings.Repeat("x", 256))
	for name, do := range s.operations() {
		if err := do(long); !errors.Is(err, unix.ENAMETOOLONG) {
			t.Errorf("%s of a name that is too long: %v", name, err)
		}
	}
	if err := s.fs.Remove(filepath.Join(s.in, "a\x00b")); !errors.Is(err, unix.EINVAL) {
		t.Errorf("of a name with a zero byte: %v", err)
	}
}

// Errors keep the system's number, and name operation and path, each once.
func TestBeneathErrors(t *testing.T) {
	s := newShared(t)
	x, none, dir := write(t, filepath.Join(s.in, "x"), ""), filepath.Join(s.in, "none"), filepath.Join(s.in, "dir")
	must(t, os.MkdirAll(filepath.Join(dir, "below"), 0o755))
	must(t, os.Symlink(s.outside, filepath.Join(s.in, "out")))
	behind := filepath.Join(s.in, "out", "secret")
	for _, test := range []struct {
		err  error
		is   error
		text string
	}{
		{closed(s.fs.OpenFile(none, os.O_RDONLY, 0)), fs.ErrNotExist, "open " + none + ": no such file or directory"},
		{closed(s.fs.OpenFile(x, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0)), fs.ErrExist, "open " + x + ": file exists"},
		{closed(s.fs.OpenFile(x+"/y", os.O_RDONLY, 0)), unix.ENOTDIR, "open " + x + "/y: not a directory"},
		{second(s.fs.Stat(none)), fs.ErrNotExist, "stat " + none + ": no such file or directory"},
		{second(s.fs.Lstat(none)), fs.ErrNotExist, "lstat " + none + ": no such file or directory"},
		{second(s.fs.ReadDir(none)), fs.ErrNotExist, "readdir " + none + ": no such file or directory"},
		{second(s.fs.ReadDir(x)), unix.ENOTDIR, "readdir " + x + ": not a directory"},
		{s.fs.Mkdir(dir, 0o755), fs.ErrExist, "mkdir " + dir + ": file exists"},
		{s.fs.Remove(none), fs.ErrNotExist, "remove " + none + ": no such file or directory"},
		{s.fs.Remove(dir), unix.ENOTEMPTY, "remove " + dir + ": directory not empty"},
		{s.fs.Rename(none, x), fs.ErrNotExist, "rename " + none + " " + x + ": no such file or directory"},
		{s.fs.RenameNew(dir, x), fs.ErrExist, "rename " + dir + " " + x + ": file exists"},
		{s.fs.SyncDir(none), fs.ErrNotExist, "sync directory " + none + ": no such file or directory"},
		{second(s.fs.Scratch(dir)), errors.ErrUnsupported, "create " + dir + ": unsupported operation"},
		{closed(s.fs.OpenFile(s.secret, os.O_RDONLY, 0)), ErrOutside, "open " + s.secret + ": outside of the folders that are configured"},
		{s.fs.Rename(x, s.secret), ErrOutside, "rename " + x + " " + s.secret + ": outside of the folders that are configured"},
		{closed(s.fs.OpenFile(behind, os.O_RDONLY, 0)), ErrOutside, "open " + behind + ": a symbolic link leads outside of the folders that are configured"},
		{second(s.fs.Stat(behind)), ErrOutside, "stat " + behind + ": a symbolic link leads outside of the folders that are configured"},
		{s.fs.Rename(behind, x), ErrOutside, "rename " + behind + " " + x + ": a symbolic link leads outside of the folders that are configured"},
	} {
		if test.err == nil || !errors.Is(test.err, test.is) {
			t.Errorf("%v is not %v", test.err, test.is)
		} else if diff := cmp.Diff(test.text, test.err.Error()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// mount makes a filesystem in memory, of this size.
func mount(t *testing.T, dir, size string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("only the superuser can mount; run the tests as root or in a container")
	}
	must(t, unix.Mount("stoker-test", dir, "tmpfs", 0, "size="+size))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// Two roots may be two filesystems; a full one says so.
func TestBeneathTwoFilesystems(t *testing.T) {
	s := newShared(t)
	mount(t, s.out, "64k")
	x, to := write(t, filepath.Join(s.in, "x"), "text"), filepath.Join(s.out, "x")
	for _, rename := range []func(from, to string) error{s.fs.Rename, s.fs.RenameNew} {
		if err := rename(x, to); !errors.Is(err, unix.EXDEV) {
			t.Errorf("rename: %v", err)
		}
	}
	must(t, Move(s.fs, x, to))
	check(t, to, "text")
	checkGone(t, x)
	write(t, x, strings.Repeat("x", 1<<20))
	if err := Move(s.fs, x, to+"2"); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("move into too little space: %v", err)
	}
	checkNames(t, s.out, "x")
	if st, err := os.Stat(x); err != nil || st.Size() != 1<<20 {
		t.Errorf("the original: %v", err)
	}
	f, err := Create(s.fs, to+"3", 0o600)
	must(t, err)
	if _, err := io.Copy(f, strings.NewReader(strings.Repeat("x", 1<<20))); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("write: %v", err)
	}
	must(t, f.Close())
}

// A folder that is not there is an error until it is there again, and nothing that was done keeps it from being
// unmounted.
func TestBeneathRootVanishes(t *testing.T) {
	s := newShared(t)
	mount(t, s.out, "64k")
	x := filepath.Join(s.out, "x")
	for range 3 {
		must(t, WriteFile(s.fs, x, []byte("text"), 0o600))
		for _, do := range s.operations() {
			_ = do(x)
		}
		if err := unix.Unmount(s.out, 0); err != nil {
			t.Fatalf("unmount: %v", err)
		}
		if _, err := s.fs.Lstat(x); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("unmounted: %v", err)
		}
		must(t, os.Remove(s.out))
		if err := s.fs.SyncDir(s.out); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("removed: %v", err)
		}
		must(t, os.Mkdir(s.out, 0o755))
		mount(t, s.out, "64k")
	}
}

// withUmask runs a test under another umask, which is the process's.
func withUmask(t *testing.T, mask int) {
	t.Helper()
	old := unix.Umask(mask)
	t.Cleanup(func() { unix.Umask(old) })
}

// New folders are for those that the folder above them is for, whatever the umask is.
func TestBeneathMkdirSharesLikeItsParent(t *testing.T) {
	for above, want := range map[fs.FileMode]fs.FileMode{
		0o755:                 0o755,
		0o775 | fs.ModeSetgid: 0o775 | fs.ModeSetgid,
		0o770 | fs.ModeSetgid: 0o770 | fs.ModeSetgid,
		0o700:                 0o700,
		0o777 | fs.ModeSticky: 0o775, // what was asked for
	} {
		for _, mask := range []int{0o077, 0o022, 0} {
			t.Run(above.String(), func(t *testing.T) {
				withUmask(t, mask)
				s := newShared(t)
				must(t, os.Chmod(s.out, above))
				if os.Geteuid() == 0 {
					must(t, os.Chown(s.out, -1, 4321))
					must(t, os.Chmod(s.out, above)) // chown took the bit away
				}
				must(t, MkdirAll(s.fs, filepath.Join(s.out, "a", "b"), 0o775))
				for _, name := range []string{"a", "a/b"} {
					st, err := os.Stat(filepath.Join(s.out, name))
					must(t, err)
					if got := st.Mode() &^ fs.ModeDir; got != want {
						t.Errorf("under %04o, umask %04o: %s is %s, want %s", above, mask, name, got, want)
					}
					if gid := st.Sys().(*syscall.Stat_t).Gid; above&fs.ModeSetgid != 0 && os.Geteuid() == 0 && gid != 4321 {
						t.Errorf("%s has group %d", name, gid)
					}
				}
			})
		}
	}
}

// A file keeps its permissions on its way to another filesystem, and gets what was asked for when it is written.
func TestUmaskTakesNothing(t *testing.T) {
	withUmask(t, 0o077)
	s := newShared(t)
	x, to := filepath.Join(s.in, "x"), filepath.Join(s.out, "x")
	must(t, WriteFile(s.fs, x, nil, 0o664))
	must(t, moveAcross(s.fs, x, to))
	if st, err := os.Stat(to); err != nil || st.Mode().Perm() != 0o664 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
}
