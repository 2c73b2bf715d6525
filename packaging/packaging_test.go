package packaging

import (
	"errors"
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stoker/daemon/config"
)

var update = flag.Bool("update", false, "write the golden files")

func TestUnits(t *testing.T) {
	for file, unit := range map[string]Unit{
		"stoker.service":      PackagedUnit(),
		"user/stoker.service": {Command: []string{"/home/u/My Programs/100%/stoker"}, User: true},
	} {
		got, err := unit.Render()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, file, got)
	}
}

// golden compares got with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s, -want +got (go test ./packaging -update writes it anew):\n%s", name, diff)
	}
}

// TestSystemdTakesTheUnits asks systemd itself, which names keys that it does not know, programs that are not there and
// manual pages that are missing. Only programs and pages are put in their places.
func TestSystemdTakesTheUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatal("systemd-analyze is missing: test/tools.sh installs it")
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "a stoker", "stoker")
	if err := os.MkdirAll(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, user := range []bool{false, true} {
		text, err := Unit{Command: []string{program, "--config", "/50% off/$HOME/stoker's.toml"}, User: user}.Render()
		if err != nil {
			t.Fatal(err)
		}
		unit := filepath.Join(dir, "stoker.service")
		if err := os.WriteFile(unit, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify, user %v: %v\n%s", user, err, out)
		}
		if err := os.WriteFile(unit, []byte(strings.Replace(text, "WatchdogSec=", "WatchdogSecs=", 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, _ := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput(); !strings.Contains(string(out), "WatchdogSecs") {
			t.Errorf("systemd-analyze verify says nothing of a planted mistake:\n%s", out)
		}
	}
}

// TestConfigsAreTheDefaults: what a first configuration sets is what would hold without it, but for what makes a service.
func TestConfigsAreTheDefaults(t *testing.T) {
	home := t.TempDir()
	for name, tc := range map[string]struct {
		text string
		want func(*config.Config)
	}{
		"system": {Config, func(c *config.Config) {
			c.Engine.Python = "/var/lib/stoker/venv"
			c.API.Socket = "/run/stoker/stoker.sock"
		}},
		"user": {UserConfig, func(c *config.Config) {
			c.Paths = config.Paths{
				Inbox: home + "/stoker/inbox", Outbox: home + "/stoker/outbox", Archive: home + "/stoker/archive",
				State: home + "/.local/state/stoker/service",
			}
		}},
	} {
		want := config.Default()
		tc.want(&want)
		got := load(t, home, tc.text)
		if diff := cmp.Diff(want, got.Config); diff != "" {
			t.Errorf("%s, -want +got:\n%s", name, diff)
		}
		// One line makes it run.
		edited := strings.Replace(tc.text, `model = ""`, `model = "Qwen/Qwen3-8B"`, 1)
		if err := load(t, home, edited).CheckRunnable(); err != nil {
			t.Errorf("%s with a model: %v", name, err)
		}
	}
}

// TestConfigForCPU: the lines that are commented out are ones that can be used.
func TestConfigForCPU(t *testing.T) {
	var lines []string
	for line := range strings.Lines(Config) {
		if rest, ok := strings.CutPrefix(line, "# "); ok {
			line = rest
		}
		lines = append(lines, line)
	}
	c := load(t, t.TempDir(), strings.Join(lines, ""))
	if c.Engine.Args["max_num_seqs"] == nil || c.Engine.Env["TORCHDYNAMO_DISABLE"] == "" || c.Engine.MaxModelLen == 0 {
		t.Errorf("got %+v", c.Engine)
	}
}

func load(t *testing.T, home, text string) *config.Loaded {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(config.Options{Path: path, Environ: []string{"HOME=" + home}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestUserAndFolders has the real programs make user and folders below another root.
func TestUserAndFolders(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can make users")
	}
	root := t.TempDir()
	for path, text := range map[string]string{"usr/lib/sysusers.d/stoker.conf": Sysusers, "usr/lib/tmpfiles.d/stoker.conf": Tmpfiles} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run := func(program string, args ...string) {
		t.Helper()
		if out, err := exec.Command(program, append([]string{"--root=" + root}, args...)...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", program, err, out)
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	run("systemd-sysusers", "stoker.conf")
	passwd, err := os.ReadFile(filepath.Join(root, "etc/passwd"))
	if err != nil || !strings.Contains(string(passwd), ":stoker batch inference:/var/lib/stoker:/usr/sbin/nologin\n") {
		t.Errorf("%v, passwd:\n%s", err, passwd)
	}
	run("systemd-tmpfiles", "--create", "stoker.conf")
	mode := func(path string, want fs.FileMode) {
		t.Helper()
		info, err := os.Stat(filepath.Join(root, path))
		if err != nil || info.Mode() != fs.ModeDir|want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, fs.ModeDir|want)
		}
	}
	mode("srv/stoker/inbox", fs.ModeSetgid|0o775)
	mode("srv/stoker/outbox", fs.ModeSetgid|0o775)
	mode("srv/stoker/archive", fs.ModeSetgid|0o775)
	mode("var/lib/stoker", 0o700)

	// What an administrator has closed stays closed after the next boot.
	if err := os.Chmod(filepath.Join(root, "srv/stoker/outbox"), fs.ModeSetgid|0o770); err != nil {
		t.Fatal(err)
	}
	run("systemd-tmpfiles", "--create", "stoker.conf")
	mode("srv/stoker/outbox", fs.ModeSetgid|0o770)
}
