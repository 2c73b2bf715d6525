//go:build vm

package vm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// TestKills ends what the service consists of, in each way in which systemd or the kernel would, and expects it back.
func TestKills(t *testing.T) {
	t.Parallel()
	began := time.Now()
	g := newGuest(t, installed.root(t))
	row := figures.Figures{Suite: "kills of the service, by systemd and the kernel", Note: "main process, worker, watchdog, out of memory"}
	var (
		inputs []rig.Input
		before int64
	)
	for _, k := range []struct {
		name string
		kill func(*guest) error
	}{{"worker", killWorker}, {"memory", exhaustWorker}, {"main", killMain}, {"hung", hangMain}} {
		in := rig.Input{Name: k.name + ".jsonl", Lines: rig.Good(k.name, 2000)}
		inputs = append(inputs, in)
		if err := g.busyWith(in); err != nil {
			t.Fatal(err)
		}
		if err := k.kill(g); err != nil {
			t.Fatalf("%s: %v\n%s", k.name, err, g.said())
		}
		v, err := g.verify(true)
		if err != nil {
			t.Errorf("%s: %v", k.name, err)
		}
		row.Count++
		row.Redone, before = max(row.Redone, int(v.Redone-before)), v.Redone
	}
	_, tally, err := g.end(local, inputs...)
	if err != nil {
		t.Error(err)
	}
	row.Lost, row.Doubled, row.Seconds = tally.Lost, tally.Doubled, int(time.Since(began).Seconds())
	figures.Report(t, row)
}

// busyWith drops a file and waits until its requests are in flight.
func (g *guest) busyWith(in rig.Input) error {
	if err := g.drop(local.inbox, in); err != nil {
		return err
	}
	stem := strings.TrimSuffix(in.Name, ".jsonl")
	return g.await("requests in flight", fmt.Sprintf(`stoker status --json | grep '"in_flight": *[1-9]' && [ ! -e %s/%s.batch.json ]`, local.outbox, stem))
}

// property is a number that systemd tells of the unit.
func (g *guest) property(name string) (int, error) {
	out, err := g.try("systemctl show -P %s stoker", name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(out))
}

// restarted does something to the service that must make systemd start it again.
func (g *guest) restarted(do string) error {
	before, err := g.property("NRestarts")
	if err != nil {
		return err
	}
	if _, err := g.try("%s", do); err != nil {
		return err
	}
	return g.await("another start", fmt.Sprintf("[ $(systemctl show -P NRestarts stoker) -gt %d ] && systemctl is-active stoker && stoker status", before))
}

func killMain(g *guest) error {
	return g.restarted("systemctl kill --kill-whom=main -s KILL stoker")
}

// hangMain stops the main process, which the watchdog must notice.
func hangMain(g *guest) error {
	if err := g.restarted("systemctl kill --kill-whom=main -s STOP stoker"); err != nil {
		return err
	}
	_, err := g.try("journalctl -b -u stoker | grep -i 'watchdog timeout'")
	return err
}

func killWorker(g *guest) error {
	return g.survived("kill -KILL $worker")
}

// exhaustWorker leaves the service, for a moment, a little less memory than it cannot do without: the kernel ends the worker,
// for it may not end the main process. The moment ends with the kill, for the main process, too, has no room for what it
// reads, and must not be so slow that the watchdog ends it.
func exhaustWorker(g *guest) error {
	err := g.survived(`cd /sys/fs/cgroup/system.slice/stoker.service
		echo -1000 > /proc/$main/oom_score_adj
		echo 1G > memory.reclaim || true # all that can be read again from disks
		echo $(($(cat memory.current) - $(awk '/^RssAnon/ {print $2}' /proc/$worker/status) * 1024 / 2)) > memory.max || true
		for ((i = 0; i < 1000; i++)); do grep -q '^oom_kill [1-9]' memory.events && break; sleep .02; done
		echo max > memory.max
		echo 0 > /proc/$main/oom_score_adj`)
	if err != nil {
		return err
	}
	_, err = g.try("grep -E '^oom_kill [1-9]' /sys/fs/cgroup/system.slice/stoker.service/memory.events && journalctl -b -u stoker | grep -i memory")
	return err
}

// survived does something to the worker that stoker must bear, and start another one.
func (g *guest) survived(do string) error {
	s, err := g.status()
	if err != nil {
		return err
	}
	main, err := g.property("MainPID")
	if err != nil {
		return err
	}
	if _, err := g.try("main=%d worker=%d; %s", main, s.Engine.PID, do); err != nil {
		return err
	}
	err = g.await("another worker", fmt.Sprintf(`pid=$(stoker status --json | grep -oP '"pid": *\K[0-9]+' | sed -n 1p) && [ "$pid" != %d ] && [ -e /proc/$pid ]`, s.Engine.PID))
	now, err2 := g.property("MainPID")
	if err = errors.Join(err, err2); err == nil && now != main {
		err = fmt.Errorf("the main process was %d and is %d", main, now)
	}
	return err
}
