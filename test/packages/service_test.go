//go:build packages

package packages

import (
	"path/filepath"
	"strings"
	"testing"
)

func (c *container) installBinary() {
	c.t.Helper()
	c.copyIn(filepath.Join(env(c.t, "STOKER_TEST_PACKAGES"), "amd64", "stoker"), "/usr/local/bin/stoker", 0o755)
}

// TestService is the life of a service without a package.
func TestService(t *testing.T) {
	c := newContainer(t)
	c.boot()
	c.installBinary()
	c.run("useradd --create-home alice")

	if out := c.fails(1, "runuser -u alice -- stoker service install"); !strings.Contains(out, "only root") || !strings.Contains(out, "sudo stoker service install") || !strings.Contains(out, "--user") {
		t.Error(out)
	}
	if out := c.fails(1, "stoker service start"); !strings.Contains(out, "not installed") || !strings.Contains(out, "'stoker service install'") {
		t.Error(out)
	}
	c.run("cp /usr/local/bin/stoker /root/stoker && chmod 700 /root")
	if out := c.fails(1, "/root/stoker service install"); !strings.Contains(out, "cannot reach /root/stoker") {
		t.Error(out)
	}
	if out := c.fails(1, "stoker service status"); !strings.Contains(out, "not installed") {
		t.Error(out)
	}

	// A dry run tells what then happens, and does nothing.
	dry := c.run("stoker service install --dry-run")
	files := []string{"/etc/sysusers.d/stoker.conf", "/etc/tmpfiles.d/stoker.conf", "/etc/stoker/config.toml", "/etc/systemd/system/stoker.service"}
	c.gone(files...)
	did := c.run("stoker service install")
	for _, path := range files {
		for line := range strings.Lines(c.read(path)) {
			if shown := strings.TrimRight("    "+line, " \n"); shown != "" && !strings.Contains(dry, shown+"\n") {
				t.Errorf("%s has a line that the dry run did not show: %s", path, line)
			}
		}
	}
	var told []string
	for line := range strings.Lines(dry) {
		if step, ok := strings.CutPrefix(line, "would "); ok {
			told = append(told, step)
		}
	}
	if steps, _, _ := strings.Cut(did, "next: "); steps != strings.Join(told, "") {
		t.Errorf("it did\n%s\nand would have\n%s", steps, strings.Join(told, ""))
	}
	c.says("systemctl is-enabled stoker", "enabled")
	if out := c.fails(10, "stoker service status"); !strings.Contains(out, "inactive (dead), enabled") {
		t.Error(out)
	}

	// Without a model it is not started, and by systemd does not try again and again.
	if out := c.fails(78, "stoker service start"); !strings.Contains(out, "/etc/stoker/config.toml: engine.model: no model is set") || !strings.Contains(out, "hint: set it in the configuration") {
		t.Error(out)
	}
	c.fails(1, "systemctl start stoker")
	if out := c.fails(1, "stoker service status"); !strings.Contains(out, "failed (the configuration is wrong, exit code 78), enabled") {
		t.Error(out)
	}
	if out := c.fails(10, "stoker status"); !strings.Contains(out, "hint: its service failed: the configuration is wrong, exit code 78; 'journalctl -e -u stoker' shows more") {
		t.Error(out)
	}
	// Only the service itself knows what the unit sets besides.
	c.run("mkdir /etc/systemd/system/stoker.service.d && printf '[Service]\\nEnvironment=STOKER_RUN__DRAIN=soon\\n' > /etc/systemd/system/stoker.service.d/x.conf && systemctl daemon-reload")
	if out := c.fails(1, "stoker service start"); !strings.Contains(out, "start stoker.service: failed: the configuration is wrong, exit code 78") || !strings.Contains(out, "journalctl -e -u stoker") {
		t.Error(out)
	}
	c.run("rm -r /etc/systemd/system/stoker.service.d && systemctl daemon-reload")
	c.run(rehearse)
	c.run("stoker service start && usermod -aG stoker alice")
	c.says("stoker service status", "active (running), enabled", "unit     /etc/systemd/system/stoker.service")
	c.says("stoker service status --json", `"schema_version":1`, `"state":"active"`)
	if out := c.fails(1, "cd /tmp && echo '{\"prompt\":\"hi\"}' > x.jsonl && useradd --create-home carol && runuser -u carol -- stoker submit x.jsonl"); !strings.Contains(out, "hint: members of the group stoker may: 'sudo usermod -aG stoker carol', then log in anew") {
		t.Error(out)
	}
	c.run("runuser -u carol -- sh -c 'mkdir -p ~/.config/stoker && touch ~/.config/stoker/config.toml'")
	c.says("runuser -u carol -- stoker config check 2>&1", "note: /home/carol/.config/stoker/config.toml is read, and not /etc/stoker/config.toml, for which there is --config")
	c.drop("alice", "x", 10)
	c.awaitFile("/srv/stoker/outbox/x.batch.json")
	c.answers("/srv/stoker/outbox/x.output.jsonl", 10)
	c.says("ls /sys/fs/cgroup/system.slice/stoker.service", "daemon", "worker-"+strings.TrimSpace(c.read("/var/lib/stoker/instance"))+"-1")

	// Once more changes nothing, a new program or another unit restarts it, and the configuration stays.
	pid := c.mainPID()
	c.says("stoker service install", "is up to date: nothing was restarted")
	if now := c.mainPID(); now != pid {
		t.Errorf("pid %s, before %s, and nothing was new", now, pid)
	}
	c.installBinary()
	c.says("stoker service install", "run systemctl restart stoker.service", "upgraded and restarted")
	if now := c.mainPID(); now == pid || now == "0" {
		t.Errorf("pid %s, before %s: the old program runs", now, pid)
	}
	pid = c.mainPID()
	c.run("sed -i /Delegate/d /etc/systemd/system/stoker.service")
	c.says("stoker service install", "write /etc/systemd/system/stoker.service, which differs", "run systemctl daemon-reload")
	c.says("systemctl show --property=Delegate,NeedDaemonReload stoker", "Delegate=yes", "NeedDaemonReload=no")
	if now := c.mainPID(); now == pid || now == "0" {
		t.Errorf("pid %s, before %s: the old unit runs", now, pid)
	}
	c.says("grep ^kind /etc/stoker/config.toml", `kind = "echo"`)

	// A reload of a wrong configuration fails, and changes nothing.
	c.run("systemctl reload stoker && cp -p /etc/stoker/config.toml /root/good.toml && echo 'levle = 1' >> /etc/stoker/config.toml")
	c.fails(1, "systemctl reload stoker")
	c.says("systemctl is-active stoker", "active")
	// Nor does a restart take away what runs.
	pid = c.mainPID()
	if out := c.fails(78, "stoker service restart"); !strings.Contains(out, "/etc/stoker/config.toml:") || !strings.Contains(out, "levle: unknown key") {
		t.Error(out)
	}
	c.installBinary()
	c.fails(78, "stoker service install")
	if now := c.mainPID(); now != pid {
		t.Errorf("pid %s, before %s: the service was restarted with a wrong configuration", now, pid)
	}
	c.says("stoker status 2>&1", "daemon   running", "warning: the configuration is wrong: /etc/stoker/config.toml:")
	c.run("mv /root/good.toml /etc/stoker/config.toml && systemctl reload stoker")

	c.run("stoker service restart && stoker service stop")
	c.fails(10, "stoker service status")
	if out := c.fails(10, "stoker status"); !strings.Contains(out, "hint: start it with 'sudo stoker service start'") {
		t.Error(out)
	}
	c.run("stoker service install") // starts nothing that was stopped
	c.fails(10, "stoker service status")
	c.verify()
	c.run("stoker service start")

	c.says("stoker service uninstall --dry-run", "would run systemctl stop stoker.service", "nothing was done")
	c.says("stoker service status", "active")
	c.says("stoker service uninstall", "left /etc/stoker/config.toml", "left /srv/stoker/outbox", "left /var/lib/stoker", "left the user stoker")
	c.gone("/etc/systemd/system/stoker.service", "/etc/systemd/system/multi-user.target.wants/stoker.service", "/run/stoker",
		"/etc/sysusers.d/stoker.conf", "/etc/tmpfiles.d/stoker.conf")
	c.exists("/etc/stoker/config.toml", "/var/lib/stoker/stoker.db", "/srv/stoker/outbox/x.output.jsonl")
	c.verify()

	// What is checked before a start is the configuration that the unit names.
	c.run(`echo '[engine]' > '/etc/stoker/my own.toml' && stoker --config '/etc/stoker/my own.toml' service install`)
	if out := c.fails(78, "stoker service start"); !strings.Contains(out, "/etc/stoker/my own.toml: engine.model: no model is set") || !strings.Contains(out, "stays as it is") {
		t.Error(out)
	}
}

// TestUsersService is a service of a user's own, who need not be logged in.
func TestUsersService(t *testing.T) {
	c := newContainer(t)
	c.boot()
	c.installBinary()
	c.run("useradd --create-home bob && loginctl enable-linger bob")
	c.await("bob's service manager", func() bool {
		out, _ := c.try("systemctl is-active user@$(id -u bob)")
		return strings.TrimSpace(out) == "active"
	})
	bob := func(script string) string {
		return "runuser -u bob -- env HOME=/home/bob XDG_RUNTIME_DIR=/run/user/$(id -u bob) sh -c '" + script + "'"
	}
	if out := c.fails(1, "runuser -u bob -- env HOME=/home/bob stoker service install --user"); !strings.Contains(out, "log in as yourself") {
		t.Error(out)
	}
	c.says(bob("stoker service install --user"), "write /home/bob/.config/systemd/user/stoker.service", "drop files into /home/bob/stoker/inbox")
	c.run(`sed -i 's/^kind = .*/kind = "echo"/' /home/bob/.config/stoker/config.toml`)
	c.run(bob("stoker service start --user"))
	c.says(bob("stoker service status --user"), "active (running), enabled")
	c.run(bob(`seq 5 | sed "s/.*/{\"prompt\":\"&\"}/" > ~/stoker/inbox/x.jsonl`))
	c.awaitFile("/home/bob/stoker/outbox/x.batch.json")
	c.answers("/home/bob/stoker/outbox/x.output.jsonl", 5)
	c.says(bob("stoker verify"), "ok: every invariant holds")
	c.says(bob("stoker service uninstall --user"), "left /home/bob/stoker/outbox")
	c.gone("/home/bob/.config/systemd/user/stoker.service", "/home/bob/.config/systemd/user/default.target.wants/stoker.service")
	c.exists("/home/bob/stoker/outbox/x.output.jsonl", "/home/bob/.config/stoker/config.toml")
}

// TestPackagedService: `stoker service` does not hide the package's unit behind one of its own.
func TestPackagedService(t *testing.T) {
	c := newContainer(t)
	c.boot()
	c.copyIn(artefact(t, "*_amd64.deb"), "/root/stoker.deb", 0o644)
	c.run("dpkg -i /root/stoker.deb")
	if out := c.fails(1, "stoker service install"); !strings.Contains(out, "systemctl enable --now stoker") {
		t.Error(out)
	}
	if out := c.fails(1, "stoker service uninstall"); !strings.Contains(out, "apt-get remove stoker") {
		t.Error(out)
	}
	c.gone("/etc/systemd/system/stoker.service")
	c.run(rehearse)
	c.run("stoker service start")
	c.says("stoker service status", "active (running), disabled", "/lib/systemd/system/stoker.service")
	c.verify()

	// One that was there before the package hides its unit, until it is removed.
	c.run("cp /lib/systemd/system/stoker.service /etc/systemd/system/ && systemctl daemon-reload && systemctl enable stoker")
	c.says("stoker service status", "unit     /etc/systemd/system/stoker.service")
	c.says("dpkg -i /root/stoker.deb 2>&1", "hides the package's unit")
	c.run("stoker service uninstall")
	c.gone("/etc/systemd/system/stoker.service")
	c.run("stoker service start")
	c.says("stoker service status", "active (running)", "/lib/systemd/system/stoker.service")
	c.verify()
}
