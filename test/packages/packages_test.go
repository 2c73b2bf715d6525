//go:build packages

// Package packages installs stoker as users do, in Debian containers with a systemd of their own: from the packages, and
// by `stoker service`.
package packages

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// artefact finds one of what `make packages` made.
func artefact(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(env(t, "STOKER_TEST_PACKAGES"), pattern))
	if err != nil || len(found) != 1 {
		t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

const rehearse = `sed -i 's/^kind = .*/kind = "echo"/' /etc/stoker/config.toml`

// drop has a member of the group drop n lines.
func (c *container) drop(user, name string, n int) {
	c.t.Helper()
	path := "/srv/stoker/inbox/" + name
	c.run(fmt.Sprintf(`runuser -u %s -- sh -c 'seq %d | sed "s/.*/{\"prompt\":\"&\"}/" > %s.tmp && mv %[3]s.tmp %[3]s.jsonl'`, user, n, path))
}

// answers checks that each of n lines has its answer, once, in order.
func (c *container) answers(path string, n int) {
	c.t.Helper()
	lines := strings.Split(strings.TrimSpace(c.read(path)), "\n")
	if len(lines) != n {
		c.t.Fatalf("%s has %d lines, want %d", path, len(lines), n)
	}
	for i, line := range lines {
		var answer struct {
			CustomID string `json:"custom_id"`
			Response string `json:"response"`
		}
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			c.t.Fatal(err)
		}
		if answer.CustomID != fmt.Sprintf("line-%d", i+1) || answer.Response != fmt.Sprint(i+1) {
			c.t.Fatalf("%s:%d: %s", path, i+1, line)
		}
	}
}

func (c *container) verify() {
	c.t.Helper()
	c.says("stoker verify", "ok: every invariant holds")
}

func (c *container) mainPID() string {
	c.t.Helper()
	return c.run("systemctl show --property=MainPID --value stoker")
}

// TestDebian is the life of a package: installed, used, upgraded and rebooted in the middle of a batch, removed, installed
// again, purged.
func TestDebian(t *testing.T) {
	c := newContainer(t)
	c.boot()
	deb := artefact(t, "*_amd64.deb")
	c.copyIn(deb, "/root/stoker.deb", 0o644)
	c.run("useradd --create-home alice")

	c.says("dpkg -i /root/stoker.deb", "stoker setup", "one line: the model", "systemctl enable --now stoker")
	c.run("systemd-analyze verify stoker.service")
	c.says("man -w stoker stoker-service", "/usr/share/man/man1/stoker-service.1.gz")
	c.says("systemctl is-enabled stoker || true", "disabled")
	if out := c.fails(1, "systemctl start stoker"); !strings.Contains(out, "Job for stoker.service failed") {
		t.Error(out)
	}
	c.says("systemctl show --property=ExecMainStatus,NRestarts,ActiveState stoker", "ExecMainStatus=78", "NRestarts=0", "ActiveState=failed")
	c.says("journalctl --no-pager -u stoker", "no model is set", "hint: set it in the configuration")

	c.run(rehearse)
	c.run("systemctl enable --now stoker && usermod -aG stoker alice")
	c.says("runuser -u alice -- stoker status", "daemon   running")
	if out := c.fails(1, "runuser -u nobody -- stoker status"); !strings.Contains(out, "usermod -aG stoker") {
		t.Error(out)
	}
	c.drop("alice", "first", 20)
	c.awaitFile("/srv/stoker/outbox/first.batch.json")
	c.answers("/srv/stoker/outbox/first.output.jsonl", 20)
	c.run("runuser -u alice -- sh -c 'cat /srv/stoker/outbox/first.output.jsonl >/dev/null && rm /srv/stoker/outbox/first.batch.json'")
	testHardening(c)

	// A queue's folders are as those that they are in.
	c.run("runuser -u alice -- sh -c 'umask 002; mkdir /srv/stoker/inbox/q'")
	c.drop("alice", "q/second", 3)
	c.awaitFile("/srv/stoker/outbox/q/second.batch.json")
	c.says("stat -c '%a %U %G' /srv/stoker/outbox/q", "2775 stoker stoker")

	// The next version comes in the middle of a batch, with another default configuration.
	c.run(`printf '[engine.args]\ndelay = "2s"\n' >> /etc/stoker/config.toml && systemctl restart stoker`)
	c.drop("alice", "third", 5000)
	c.await("the batch to run", func() bool { return strings.Contains(c.run("stoker status"), "running  third") })
	before := c.mainPID()
	next := c.nextVersion("/root/stoker.deb")
	c.run("dpkg --force-confold -i " + next)
	if c.mainPID() == before {
		t.Error("the old version still runs")
	}
	c.says("cat /etc/stoker/config.toml", `kind = "echo"`, `delay = "2s"`)
	c.exists("/etc/stoker/config.toml.dpkg-dist")

	c.await("the engine to have lines", func() bool { return strings.Contains(c.run("stoker status"), "running  third") })
	c.reboot()
	c.awaitFile("/srv/stoker/outbox/third.batch.json")
	c.answers("/srv/stoker/outbox/third.output.jsonl", 5000)
	c.verify()

	c.run("dpkg --remove stoker")
	c.gone("/usr/bin/stoker", "/run/stoker", "/usr/lib/systemd/system/stoker.service")
	c.exists("/etc/stoker/config.toml", "/var/lib/stoker/stoker.db", "/srv/stoker/outbox/third.output.jsonl")
	c.run("dpkg -i " + next)
	c.run("systemctl start stoker")
	c.says("stoker list", "third")
	c.verify()

	// A disk of its own is emptied, and stays where it is mounted.
	c.run("mount -t tmpfs none /var/cache/stoker && mkdir /var/cache/stoker/models && touch /var/cache/stoker/models/.x")
	c.says("dpkg --purge stoker", "left your files in /srv/stoker")
	c.says("ls -A /var/cache/stoker | wc -l; umount /var/cache/stoker", "0")
	c.gone("/etc/stoker", "/var/lib/stoker", "/run/stoker", "/etc/systemd/system/multi-user.target.wants/stoker.service")
	c.exists("/srv/stoker/outbox/third.output.jsonl", "/srv/stoker/archive/done/first.jsonl")
	c.says("id stoker", "stoker")
	c.says("systemctl list-units --all --no-legend 'stoker*'; echo end", "end")
}

// nextVersion makes a package with a higher version and another configuration of one in the container.
func (c *container) nextVersion(deb string) string {
	c.t.Helper()
	c.run(`rm -rf /root/next && dpkg-deb -R ` + deb + ` /root/next &&
		sed -i 's/^Version: .*/Version: 99.0/' /root/next/DEBIAN/control &&
		echo '# of the next version' >> /root/next/etc/stoker/config.toml &&
		dpkg-deb -Zgzip -z1 --root-owner-group -b /root/next /root/next.deb`)
	return "/root/next.deb"
}

// testHardening looks at the daemon and its worker from outside.
func testHardening(c *container) {
	c.t.Helper()
	pids := strings.Fields(c.run("cat /sys/fs/cgroup/system.slice/stoker.service/cgroup.procs /sys/fs/cgroup/system.slice/stoker.service/*/cgroup.procs 2>/dev/null; true"))
	if len(pids) < 2 {
		c.t.Errorf("daemon and worker are %v", pids)
	}
	for _, pid := range pids {
		c.says("cat /proc/"+pid+"/status", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "Seccomp:\t2", "Umask:\t0002")
		c.says("cat /proc/"+pid+"/cmdline | tr '\\0' ' '", "/usr/bin/stoker")
		// Nothing of the system can be written, and devices can: a GPU is one.
		ns := "nsenter --target " + pid + " --mount -- "
		c.says(ns+"findmnt --noheadings --output OPTIONS --target /usr", "ro,")
		c.says(ns+"sh -c 'test -c /dev/full && cat /proc/version'", "Linux")
	}
}

// TestWithoutSystemd installs where nothing is booted, as when images are built.
func TestWithoutSystemd(t *testing.T) {
	c := newContainer(t)
	c.copyIn(artefact(t, "*_amd64.deb"), "/root/stoker.deb", 0o644)
	c.says("dpkg -i /root/stoker.deb", "systemctl enable --now stoker")
	c.says("stat -c '%a %U %G' /srv/stoker/inbox /srv/stoker/outbox /srv/stoker/archive", "2775 stoker stoker\n2775 stoker stoker\n2775 stoker stoker")
	c.says("stat -c '%a %U %G' /var/lib/stoker", "700 stoker stoker")
	c.says("stoker config check 2>&1", "/etc/stoker/config.toml: ok", "no model is set")
	if out := c.fails(1, "stoker service start"); !strings.Contains(out, "systemd does not run here") || !strings.Contains(out, "'stoker run'") {
		t.Error(out)
	}
	c.run("dpkg --force-confold -i " + c.nextVersion("/root/stoker.deb"))
	c.run("dpkg --purge stoker")
	c.gone("/srv/stoker", "/var/lib/stoker", "/etc/stoker") // nobody had put anything there
}

// TestWithoutSystemdsPrograms installs where not even systemd's programs are, as in most container images.
func TestWithoutSystemdsPrograms(t *testing.T) {
	c := newContainer(t)
	c.copyIn(artefact(t, "*_amd64.deb"), "/root/stoker.deb", 0o644)
	c.run("rm /usr/bin/systemd-sysusers /usr/bin/systemctl && dpkg -i /root/stoker.deb")
	c.says("stat -c '%a %U %G' /srv/stoker/inbox /var/lib/stoker", "2775 stoker stoker\n700 stoker stoker")
	c.says("getent passwd stoker", ":/var/lib/stoker:/usr/sbin/nologin")
	c.run("dpkg --purge stoker")
}

// TestRedHat has the real rpm install, upgrade and erase, on Debian's systemd.
func TestRedHat(t *testing.T) {
	c := newContainer(t)
	c.boot()
	c.copyIn(artefact(t, "*.x86_64.rpm"), "/root/stoker.rpm", 0o644)
	rpm := "rpm --nodeps --force-debian "
	c.says(rpm+"-i /root/stoker.rpm", "stoker setup", "one line: the model")
	c.says("stat -c '%a %U %G' /srv/stoker/inbox /var/lib/stoker", "2775 stoker stoker\n700 stoker stoker")
	c.says("rpm -q --configfiles stoker", "/etc/stoker/config.toml")
	c.run(rehearse)
	c.run("systemctl enable --now stoker && useradd -G stoker alice")
	c.drop("alice", "x", 10)
	c.awaitFile("/srv/stoker/outbox/x.batch.json")
	c.answers("/srv/stoker/outbox/x.output.jsonl", 10)
	before := c.mainPID()
	c.run(rpm + "-U --force /root/stoker.rpm")
	if after := c.mainPID(); after == before || after == "0" {
		t.Errorf("pid %s before, %s after the upgrade", before, after)
	}
	c.says("grep ^kind /etc/stoker/config.toml", `kind = "echo"`)
	c.verify()
	c.says(rpm+"-e stoker", "left /srv/stoker")
	c.gone("/usr/bin/stoker", "/run/stoker", "/etc/systemd/system/multi-user.target.wants/stoker.service")
	c.exists("/srv/stoker/outbox/x.output.jsonl", "/var/lib/stoker/stoker.db", "/etc/stoker/config.toml.rpmsave")
}

// TestContents: both kinds, for both machines, hold the same files.
func TestContents(t *testing.T) {
	list := func(program string, args ...string) []string {
		t.Helper()
		out, err := exec.Command(program, args...).Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		var files []string
		for line := range strings.Lines(string(out)) {
			line = strings.TrimPrefix(strings.TrimSpace(line), ".")
			if line != "" && !strings.HasSuffix(line, "/") {
				files = append(files, strings.Replace(line, "/zsh/site-functions/", "/zsh/vendor-completions/", 1))
			}
		}
		slices.Sort(files)
		return files
	}
	deb := func(arch string) []string {
		return list("sh", "-c", `dpkg-deb --fsys-tarfile "$1" | tar -t`, "sh", artefact(t, "*_"+arch+".deb"))
	}
	want := deb("amd64")
	for _, path := range []string{
		"/usr/bin/stoker", "/usr/lib/systemd/system/stoker.service", "/usr/lib/sysusers.d/stoker.conf", "/usr/lib/tmpfiles.d/stoker.conf",
		"/etc/stoker/config.toml", "/usr/share/man/man1/stoker.1.gz", "/usr/share/bash-completion/completions/stoker",
		"/usr/share/zsh/vendor-completions/_stoker", "/usr/share/fish/vendor_completions.d/stoker.fish", "/usr/share/doc/stoker/copyright",
		"/usr/share/doc/stoker/config.example.toml", "/usr/share/doc/stoker/operations.md",
	} {
		if !slices.Contains(want, path) {
			t.Errorf("%s is missing", path)
		}
	}
	for name, got := range map[string][]string{
		"arm64 deb": deb("arm64"), "x86_64 rpm": list("rpm", "-qpl", artefact(t, "*.x86_64.rpm")), "aarch64 rpm": list("rpm", "-qpl", artefact(t, "*.aarch64.rpm")),
	} {
		if !slices.Equal(got, want) {
			t.Errorf("%s has %v, the amd64 deb %v", name, got, want)
		}
	}
}
