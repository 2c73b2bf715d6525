//go:build vm

package vm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"stoker/test/figures"
	"stoker/test/rig"
)

// TestFullDisks fills up the disks of state and of shared folders while the service works, and makes room again.
func TestFullDisks(t *testing.T) {
	t.Parallel()
	began := time.Now()
	g := newGuest(t, installed.root(t))
	row := figures.Figures{Suite: "disks of the service that fill up", Note: "of the state, and of the shared folders"}
	var inputs []rig.Input
	for _, disk := range []string{"/var/lib/stoker", "/srv/stoker"} {
		name := fmt.Sprintf("full-%d", row.Count)
		in := rig.Input{Name: name + ".jsonl", Lines: rig.Good(name, 3000)}
		inputs = append(inputs, in)
		if err := g.busyWith(in); err != nil {
			t.Fatal(err)
		}
		if err := g.fill(disk); err != nil {
			t.Fatalf("%s: %v\n%s", disk, err, g.said())
		}
		row.Count++
	}
	_, tally, err := g.end(local, inputs...)
	if err != nil {
		t.Error(err)
	}
	row.Lost, row.Doubled, row.Seconds = tally.Lost, tally.Doubled, int(time.Since(began).Seconds())
	figures.Report(t, row)
}

// fill leaves no room on a disk until stoker says so.
func (g *guest) fill(disk string) error {
	before, err := g.property("NRestarts")
	if err != nil {
		return err
	}
	if _, err := g.try("dd if=/dev/zero of=%s/lost+found/filler bs=1M 2>/dev/null || true", disk); err != nil {
		return err
	}
	err = g.awaitTrouble(full)
	_, err2 := g.try("rm %s/lost+found/filler", disk)
	after, err3 := g.property("NRestarts")
	if err := errors.Join(err, err2, err3); err != nil {
		return err
	}
	if after != before {
		return fmt.Errorf("the service started again, %d times", after-before)
	}
	return g.awaitIdle(local)
}

// What status says of a folder that something is wrong with.
const (
	full      = "full"
	silent    = "silent"
	unmounted = "unmounted"
)

// awaitTrouble waits until stoker says that of one of its folders.
func (g *guest) awaitTrouble(kind string) error {
	var said []rig.Storage
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Second) {
		s, err := g.status()
		if err != nil {
			return err
		}
		if said = s.Storage; slices.ContainsFunc(said, func(f rig.Storage) bool { return f.Kind == kind }) {
			return nil
		}
	}
	return fmt.Errorf("no folder is %s after %s, but: %v", kind, patience, said)
}

// TestShareGone takes a share away on which the service works: its server first, then the mount.
func TestShareGone(t *testing.T) {
	t.Parallel()
	began := time.Now()
	g := newGuest(t, installed.root(t))
	g.serve("/export")
	nfs := shares[1]
	f := folders{"/mnt/share/inbox", "/mnt/share/outbox", "/mnt/share/archive", local.state}
	var mount strings.Builder // each folder by itself: with require_mount the inbox must be a mount point
	for _, dir := range []string{"/inbox", "/outbox", "/archive"} {
		fmt.Fprintf(&mount, "%s\n", nfs.mountAt("/mnt/share"+dir, "/export", dir, ""))
	}
	g.sh("install -d -o stoker -g stoker -m 2775 /export /export/inbox /export/outbox /export/archive\n%s", mount.String())
	g.configure(f.settings() + "[inbox]\nrequire_mount = true\nsettle = \"1s\"\npoll = \"1s\"\n[log]\nlevel = \"debug\"\n[engine]\nkind = \"echo\"\n[engine.args]\ndelay = \"200ms\"\n[api]\nsocket = \"/run/stoker/stoker.sock\"\n")
	row := figures.Figures{Suite: "shares of the service that go away and come back", Note: "the server stops, the folder is unmounted"}
	var inputs []rig.Input
	for _, way := range []struct{ name, gone, word, back string }{
		{"server", "systemctl stop nfs-server", silent, "systemctl start nfs-server"},
		{"mount", "umount -l /mnt/share/*", unmounted, mount.String()},
	} {
		in := rig.Input{Name: way.name + ".jsonl", Lines: rig.Good(way.name, 3000)}
		inputs = append(inputs, in)
		if err := g.goAndComeBack(f, in, way.gone, way.word, way.back); err != nil {
			t.Fatalf("%s: %v\n%s", way.name, err, g.said())
		}
		row.Count++
	}
	_, tally, err := g.end(f, inputs...)
	if err != nil {
		t.Error(err)
	}
	row.Lost, row.Doubled, row.Seconds = tally.Lost, tally.Doubled, int(time.Since(began).Seconds())
	figures.Report(t, row)
}

// goAndComeBack takes the share away while a batch runs. The service must stay, longer than its watchdog waits, and go on.
func (g *guest) goAndComeBack(f folders, in rig.Input, gone, word, back string) error {
	if err := g.drop("/export/inbox", in); err != nil {
		return err
	}
	if err := g.await("requests in flight", `stoker status --json | grep '"in_flight": *[1-9]'`); err != nil {
		return err
	}
	pid, err := g.property("MainPID")
	if err != nil {
		return err
	}
	if _, err := g.try("%s", gone); err != nil {
		return err
	}
	err = g.awaitTrouble(word)
	_, err2 := g.try("%s", back)
	if err := errors.Join(err, err2, g.awaitIdle(f)); err != nil {
		return err
	}
	if now, err := g.property("MainPID"); err != nil || now != pid {
		return fmt.Errorf("the main process was %d and is %d: %w", pid, now, err)
	}
	return nil
}
