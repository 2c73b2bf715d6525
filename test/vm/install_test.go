//go:build vm

package vm

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
	"stoker/test/vm/machine"
)

// TestService takes a Debian through all that its administrator does with stoker: install, enable, reboot in the middle of a
// batch, upgrade, remove, purge.
func TestService(t *testing.T) {
	t.Parallel()
	began := time.Now()
	g := newGuest(t, bare())
	told := g.sh("dpkg -i /media/stoker.deb")
	if !strings.Contains(told, "stoker setup") {
		t.Errorf("after installing nobody says what comes next:\n%s", told)
	}
	g.write("/etc/stoker/config.toml", settings)
	g.sh("systemctl enable --now stoker")
	first := rig.Input{Name: "first.jsonl", Lines: rig.Good("first", 20)}
	if err := errors.Join(g.drop(local.inbox, first), g.awaitIdle(local)); err != nil {
		t.Fatal(err)
	}
	middle := rig.Input{Name: "middle.jsonl", Lines: rig.Good("middle", 5000)}
	times, err := g.rebootIn(middle, 3)
	if err != nil {
		t.Fatalf("%v\n%s", err, g.said())
	}
	v, tally, err := g.end(local, first, middle)
	if err != nil {
		t.Error(err)
	}
	figures.Report(t, figures.Figures{
		Suite: "reboots in the middle of a batch", Count: len(times), Lost: tally.Lost, Doubled: tally.Doubled, Redone: int(v.Redone),
		Note:    fmt.Sprintf("from power-on to dispatching without hands %s, on %s", spread(times), machine.Accelerator()),
		Seconds: int(time.Since(began).Seconds()),
	})
	if err := g.changePackage(); err != nil {
		t.Error(err)
	}
}

// rebootIn drops a batch and reboots in the middle of it, n times. It returns how long after power-on the engine worked on
// what was left.
func (g *guest) rebootIn(in rig.Input, n int) (times []time.Duration, err error) {
	if err := g.drop(local.inbox, in); err != nil {
		return nil, err
	}
	for range n {
		if err := g.await("requests in flight", `stoker status --json | grep -q '"in_flight": *[1-9]'`); err != nil {
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
		[ -e /srv/stoker/outbox/first.output.jsonl ]`)
	if err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	_, err = g.try(`dpkg -P stoker
		[ -z "$(ls -A /var/lib/stoker)" ]
		[ ! -e /etc/stoker/config.toml ]
		[ ! -e /etc/systemd/system/multi-user.target.wants/stoker.service ]
		[ -e /srv/stoker/outbox/first.output.jsonl ]
		[ -e /srv/stoker/archive/done/first.jsonl ]`)
	if err != nil {
		return fmt.Errorf("purge: %w", err)
	}
	return nil
}
