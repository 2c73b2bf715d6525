//go:build vm

package vm

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
	"stoker/test/vm/machine"
)

// TestService takes a Debian through all that its administrator does with stoker: install as the manual says, reboot, also
// in the middle of a batch, upgrade, remove, purge.
func TestService(t *testing.T) {
	t.Parallel()
	began := time.Now()
	g := newGuest(t, bare())
	g.sh("cp /media/stoker.deb /root/stoker_1_amd64.deb; useradd -m alice")
	for _, block := range manualBlocks(t) {
		t.Log(block)
		who := "root"
		if !strings.Contains(block, "sudo ") {
			who = "alice"
		}
		if _, err := g.feed(block, "cd ~%[1]s; runuser -u %[1]s -- sh -e", who); err != nil {
			t.Fatal(err)
		}
	}
	g.reboot()
	asked := rig.Input{Name: "questions.jsonl", Lines: []rig.Line{
		{Raw: `{"prompt": "What is the capital of France?"}`, ID: "line-1", Text: "What is the capital of France?"},
	}}
	if err := g.await("the answer", "[ -e /srv/stoker/outbox/questions.batch.json ]"); err != nil {
		t.Fatal(err)
	}
	g.configure(strings.Replace(settings, "200ms", "1s", 1))
	middle := rig.Input{Name: "middle.jsonl", Lines: rig.Good("middle", 5000)}
	times, err := g.rebootIn(middle, 3)
	if err != nil {
		t.Fatalf("%v\n%s", err, g.said())
	}
	v, tally, err := g.end(local, asked, middle)
	if err != nil {
		t.Error(err)
	}
	figures.Report(t, figures.Figures{
		Suite: "reboots, after installing as the manual says and in the middle of a batch", Count: 1 + len(times), Lost: tally.Lost, Doubled: tally.Doubled, Redone: int(v.Redone),
		Note:    fmt.Sprintf("from power-on to dispatching %s, on %s", spread(times), machine.Accelerator()),
		Seconds: int(time.Since(began).Seconds()),
	})
	if err := g.changePackage(); err != nil {
		t.Error(err)
	}
}

var (
	installSection = regexp.MustCompile(`(?ms)^## Install$(.*?)^##`)
	shellBlock     = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")
)

// manualBlocks are the commands of the manual's part on installing. Those without sudo are a user's.
func manualBlocks(t *testing.T) (blocks []string) {
	t.Helper()
	manual, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range shellBlock.FindAllStringSubmatch(installSection.FindString(string(manual)), -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) < 4 {
		t.Fatalf("the manual installs stoker by these alone: %q", blocks)
	}
	return blocks
}

// rebootIn drops a batch and reboots in the middle of it, n times. It returns how long after power-on the engine worked on
// what was left.
func (g *guest) rebootIn(in rig.Input, n int) (times []time.Duration, err error) {
	if err := g.drop(local.inbox, in); err != nil {
		return nil, err
	}
	for range n {
		if err := g.await("requests in flight", `stoker status --json | grep '"in_flight": *[1-9]'`); err != nil {
			return nil, err
		}
		g.reboot()
		took, err := g.AwaitConsole(patience, isOpen, isReady)
		if err != nil {
			return nil, err
		}
		times = append(times, took)
	}
	return times, nil
}

// spread is the least and the most of some times.
func spread(times []time.Duration) string {
	if len(times) == 0 {
		return "-"
	}
	least, most := times[0], times[0]
	for _, d := range times {
		least, most = min(least, d), max(most, d)
	}
	return fmt.Sprintf("%.0f to %.0f s", least.Seconds(), most.Seconds())
}

// changePackage upgrades, removes and purges the package, and looks what each leaves.
func (g *guest) changePackage() error {
	_, err := g.try(`systemctl start stoker
		before=$(systemctl show -P MainPID stoker)
		echo '# mine' >> /etc/stoker/config.toml
		dpkg -i /media/stoker.deb
		systemctl is-active stoker
		[ $(systemctl show -P MainPID stoker) != $before ]
		grep -q '# mine' /etc/stoker/config.toml`)
	if err != nil {
		return fmt.Errorf("upgrade: %w", err)
	}
	_, err = g.try(`dpkg -r stoker
		! systemctl is-active stoker
		! pgrep -u stoker
		[ -e /etc/stoker/config.toml ]
		[ -e /var/lib/stoker/stoker.db ]
		[ -e /srv/stoker/outbox/questions.output.jsonl ]`)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	_, err = g.try(`dpkg -P stoker
		[ -z "$(ls -A /var/lib/stoker)" ]
		[ ! -e /etc/stoker/config.toml ]
		[ ! -e /etc/systemd/system/multi-user.target.wants/stoker.service ]
		[ -e /srv/stoker/outbox/questions.output.jsonl ]
		[ -e /srv/stoker/archive/done/questions.jsonl ]`)
	if err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	return nil
}
