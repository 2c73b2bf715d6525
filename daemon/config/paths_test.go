package config

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRelativePaths(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, dir, "etc/config.toml", `
[paths]
inbox = "../inbox/"
outbox = "~/outbox"
[engine]
model = "./models/gemma"
python = "venv"
hf_token_file = "token"
[api]
socket = "sock"
`)
	cwd := t.TempDir()
	t.Chdir(cwd)
	loaded := mustLoad(t, Options{
		Path:      file,
		Environ:   []string{"HOME=/home/ada", "STOKER_PATHS__ARCHIVE=archive"},
		Overrides: map[string]string{"engine.hf_home": "hub"},
	})
	for _, path := range []struct{ got, want string }{
		{loaded.Paths.Inbox, dir + "/inbox"},
		{loaded.Paths.Outbox, "/home/ada/outbox"},
		{loaded.Paths.Archive, cwd + "/archive"},
		{loaded.Paths.State, "/var/lib/stoker"},
		{loaded.Engine.Model, dir + "/etc/models/gemma"},
		{loaded.Engine.Python, dir + "/etc/venv"},
		{loaded.Engine.HFTokenFile, dir + "/etc/token"},
		{loaded.Engine.HFHome, cwd + "/hub"},
		{loaded.API.Socket, dir + "/etc/sock"},
		{loaded.SocketPath(), dir + "/etc/sock"},
	} {
		if path.got != path.want {
			t.Errorf("got %s, want %s", path.got, path.want)
		}
	}
}

func TestModelNamesAreNotPaths(t *testing.T) {
	for model, want := range map[string]string{
		"google/gemma-3-4b-it": "google/gemma-3-4b-it",
		"../m":                 "/etc/m",
		"~/m":                  "/home/ada/m",
		"/m/":                  "/m",
	} {
		loaded, err := load("/etc/stoker/config.toml", []byte("[engine]\nmodel = "+strconv.Quote(model)), Options{},
			map[string]string{"HOME": "/home/ada"})
		if err != nil {
			t.Fatal(err)
		}
		if loaded.Engine.Model != want {
			t.Errorf("model %s became %s, want %s", model, loaded.Engine.Model, want)
		}
	}
}

func TestSymbolicLinksStay(t *testing.T) {
	dir := t.TempDir()
	file := writeFile(t, dir, "config.toml", "[engine]\npython = \"link/bin/python\"\n")
	writeFile(t, dir, "real/bin/python", "")
	if err := os.Symlink("real", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if got, want := mustLoad(t, Options{Path: file}).Engine.Python, dir+"/link/bin/python"; got != want {
		t.Errorf("python is %s, want %s", got, want)
	}
}

func TestRoot(t *testing.T) {
	root := t.TempDir()
	t.Chdir(filepath.Dir(root))
	loaded := mustLoad(t, Options{
		Root:      filepath.Base(root),
		Environ:   []string{"STOKER_PATHS__INBOX=/elsewhere", "STOKER_API__SOCKET=/elsewhere.sock"},
		Overrides: map[string]string{"paths.state": "/elsewhere"},
	})
	want := Paths{Inbox: root + "/inbox", Outbox: root + "/outbox", Archive: root + "/archive", State: root + "/.state"}
	if diff := cmp.Diff(want, loaded.Paths); diff != "" {
		t.Errorf("paths differ (-want +got):\n%s", diff)
	}
	if got, want := loaded.Origin("paths.inbox").String(), "flag --root"; got != want {
		t.Errorf("paths.inbox is from %s, want %s", got, want)
	}
}

func TestSocketOfRoot(t *testing.T) {
	short, long := "/srv/rehearsal", "/srv/"+strings.Repeat("x", 100)
	uid := strconv.Itoa(os.Geteuid())
	for _, test := range []struct{ root, runtime, prefix, suffix string }{
		{short, "/run/user/1000", short + "/.state/stoker.sock", ""},
		{long, "/run/user/1000", "/run/user/1000/stoker-", ".sock"},
		{long, "", "/tmp/stoker-" + uid + "-", "/stoker.sock"},
		{long, "/" + strings.Repeat("y", 100), "/tmp/stoker-" + uid + "-", "/stoker.sock"},
	} {
		loaded, err := load("", nil, Options{Root: test.root}, map[string]string{"XDG_RUNTIME_DIR": test.runtime})
		if err != nil {
			t.Fatal(err)
		}
		got := loaded.SocketPath()
		if !strings.HasPrefix(got, test.prefix) || !strings.HasSuffix(got, test.suffix) || len(got) > maxSocketPath {
			t.Errorf("socket of %s is %s, want %s…%s", test.root, got, test.prefix, test.suffix)
		}
	}
	if a, b := fitSocket(long+"/a", ""), fitSocket(long+"/b", ""); a == b {
		t.Errorf("two roots share the socket %s", a)
	}
}

func TestSocketOfDefault(t *testing.T) {
	c := Default()
	t.Setenv("XDG_RUNTIME_DIR", "/run/user/1000")
	want := "/run/user/1000/stoker.sock"
	if os.Geteuid() == 0 {
		want = "/run/stoker/stoker.sock"
	}
	if got := c.SocketPath(); got != want {
		t.Errorf("socket is %s, want %s", got, want)
	}
}
