//go:build vm

package vm

import (
	"archive/tar"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"stoker/test/crashdisk/disk"
	"stoker/test/rig"
	"stoker/test/vm/machine"
)

// patience is how long anything may take. Without KVM a machine is ten times as slow as a real one, and others run beside it.
const patience = 6 * time.Minute

// folders are where stoker has what is shared, and where its state is.
type folders struct {
	inbox, outbox, archive, state string
}

var local = folders{"/srv/stoker/inbox", "/srv/stoker/outbox", "/srv/stoker/archive", "/var/lib/stoker"}

// settings are lines of a configuration that name the folders.
func (f folders) settings() string {
	return fmt.Sprintf("[paths]\ninbox = %q\noutbox = %q\narchive = %q\nstate = %q\n", f.inbox, f.outbox, f.archive, f.state)
}

// guest is a virtual machine with its disks, through all its lives.
type guest struct {
	*machine.Machine // the life under way
	t                testing.TB
	parts            machine.Config
	data             *disk.Rack // two disks, for state and shared folders, that lose what was not flushed
}

// The data disks, and what is on them.
const (
	diskSize = 96 << 20
	sector   = 512
)

// newGuest makes a machine whose root disk begins as base is, with empty data disks, and switches it on.
func newGuest(t testing.TB, base machine.Disk) *guest {
	t.Helper()
	dir, err := os.MkdirTemp(shop.place, "guest-")
	if err != nil {
		t.Fatal(err)
	}
	root, err := machine.Overlay(filepath.Join(dir, "root.qcow2"), base)
	if err != nil {
		t.Fatal(err)
	}
	data, err := dataDisks()
	if err != nil {
		t.Fatal(err)
	}
	g := &guest{t: t, data: data, parts: machine.Config{
		Kernel:    filepath.Join(shop.image, "vmlinuz"),
		Initrd:    filepath.Join(shop.image, "initrd"),
		Console:   filepath.Join(dir, "console.log"),
		MemoryMiB: 1024,
		Disks: []machine.Disk{
			root,
			{Serial: "state", File: data.Path(0), Format: "raw"},
			{Serial: "shared", File: data.Path(1), Format: "raw"},
			shop.media,
		},
	}}
	t.Cleanup(g.discard)
	g.powerOn()
	return g
}

// dataDisks makes two disks with a file system each. What they hold then is durable.
func dataDisks() (*disk.Rack, error) {
	fresh, err := shop.server.NewRack(sector, diskSize, diskSize)
	if err != nil {
		return nil, err
	}
	for i := range 2 {
		if err := fresh.Format(i, "mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"); err != nil {
			return nil, err
		}
	}
	if err := fresh.Settle(); err != nil {
		return nil, err
	}
	data, err := fresh.Fork()
	if err != nil {
		return nil, err
	}
	return data, data.Cut(0, 0)
}

func (g *guest) powerOn() {
	g.t.Helper()
	m, err := machine.PowerOn(g.parts)
	if err != nil {
		g.t.Fatal(err)
	}
	g.Machine = m
}

// discard ends the machine. The console of one that failed is kept.
func (g *guest) discard() {
	if g.Machine != nil {
		g.CutPower()
	}
	if g.t.Failed() {
		kept := filepath.Join(builds, "failed", strings.ReplaceAll(g.t.Name(), "/", "-")+"-"+filepath.Base(filepath.Dir(g.parts.Console))+".log")
		text, err := os.ReadFile(g.parts.Console)
		err = errors.Join(err, os.MkdirAll(filepath.Dir(kept), 0o755), os.WriteFile(kept, text, 0o644))
		g.t.Logf("the machine's console: %s (%v)", kept, err)
	}
	if err := g.data.Drop(); err != nil {
		g.t.Error(err)
	}
}

// cutPower ends the machine at once. Of what was not flushed to the data disks by then, chance lets some through, some in
// part, and some not at all.
func (g *guest) cutPower(seed uint64) error {
	g.CutPower()
	n, err := g.data.Length()
	if err != nil {
		return err
	}
	return g.data.CutAgain(n, seed)
}

// reboot has the machine start again, as its user would.
func (g *guest) reboot() {
	g.t.Helper()
	g.leave("reboot")
	g.powerOn()
}

// leave has the machine go off: at the end of a reboot, too, for then it is to be switched on again.
func (g *guest) leave(how string) {
	g.t.Helper()
	if _, err := g.try("systemctl --no-block %s", how); err != nil && !errors.Is(err, machine.ErrOff) {
		g.t.Fatal(err)
	}
	if err := g.AwaitOff(patience); err != nil {
		g.t.Fatal(err)
	}
}

// sh runs a script in the machine, which must succeed.
func (g *guest) sh(format string, args ...any) string {
	g.t.Helper()
	out, err := g.try(format, args...)
	if err != nil {
		g.t.Fatal(err)
	}
	return out
}

func (g *guest) try(format string, args ...any) (string, error) {
	return g.feed("", format, args...)
}

// feed runs a script in the machine that reads text.
func (g *guest) feed(text, format string, args ...any) (string, error) {
	script := format
	if len(args) > 0 {
		script = fmt.Sprintf(format, args...)
	}
	r, err := g.Run("set -euo pipefail\n"+script, text)
	if err != nil {
		return "", fmt.Errorf("in the machine: %s: %w", script, err)
	}
	if r.Code != 0 {
		return r.Stdout, fmt.Errorf("in the machine: %s: exit code %d\n%s%s", script, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout, nil
}

// write makes or replaces a file.
func (g *guest) write(path, content string) {
	g.t.Helper()
	if _, err := g.feed(content, "mkdir -p %s && cat > %s", filepath.Dir(path), path); err != nil {
		g.t.Fatal(err)
	}
}

// drop puts a whole file into a folder as programs should, and makes it durable: what its writer has not synced nobody can
// keep.
func (g *guest) drop(dir string, in rig.Input) error {
	path := filepath.Join(dir, in.Name)
	tmp := filepath.Join(filepath.Dir(path), ".incoming.tmp")
	_, err := g.feed(in.Content(), "mkdir -p %[3]s; cat > %[1]s; sync %[1]s; mv %[1]s %[2]s; sync %[3]s", tmp, path, filepath.Dir(path))
	return err
}

// configure gives stoker settings, and its folders, and starts it anew.
func (g *guest) configure(settings string) {
	g.t.Helper()
	g.write("/etc/stoker/config.toml", settings)
	g.sh("systemctl restart stoker")
}

// status is what stoker says of itself.
func (g *guest) status() (s rig.Status, err error) {
	out, err := g.try("stoker status --json")
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal([]byte(out), &s, json.MatchCaseInsensitiveNames(true))
}

// await waits until a script succeeds.
func (g *guest) await(what, script string) error {
	_, err := g.try(`until ( %s ) >/dev/null 2>&1; do [ $SECONDS -lt %d ]; sleep .25; done`, script, int(patience.Seconds()))
	if err != nil {
		return fmt.Errorf("waited %s for %s: %w\n%s", patience, what, err, g.said())
	}
	return nil
}

// said is the end of the console's output.
func (g *guest) said() string {
	lines := strings.Split(strings.TrimSpace(g.Console()), "\n")
	return strings.Join(lines[max(0, len(lines)-25):], "\n")
}

// awaitIdle waits until all that was dropped has become results and is archived. A stoker that says for seconds that it has
// nothing to do while files lie there has forgotten them.
func (g *guest) awaitIdle(f folders) error {
	const enough = 8 // seconds, and at a start nothing is known yet
	for bored, end := 0, time.Now().Add(patience); ; time.Sleep(time.Second) {
		left, err := g.try("find %s -ignore_readdir_race -iname '*.jsonl*' -o -name 'batch_*' || echo something that went away", f.inbox)
		switch {
		case err != nil:
			return err
		case left == "":
			return nil
		case bored == enough:
			return fmt.Errorf("I7: stoker has forgotten %q\n%s", left, g.said())
		case time.Now().After(end):
			return fmt.Errorf("waited %s for an empty inbox: %q\n%s", patience, left, g.said())
		}
		if bored++; !g.saysIdle() {
			bored = 0
		}
	}
}

func (g *guest) saysIdle() bool {
	s, err := g.status()
	return err == nil && s.Idle()
}

// verify is `stoker verify`, which must find nothing: not even what it notes, unless stoker runs and is not done.
func (g *guest) verify(running bool) (v rig.Verification, err error) {
	r, err := g.Run("stoker verify --json", "")
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal([]byte(r.Stdout), &v, json.MatchCaseInsensitiveNames(true)); err != nil {
		return v, fmt.Errorf("verify exits with %d and says %q %q", r.Code, r.Stdout, r.Stderr)
	}
	var errs []error
	for _, f := range v.Findings {
		if !f.Note || !running {
			errs = append(errs, errors.New(f.String()))
		}
	}
	if r.Code != 0 || !v.OK {
		errs = append(errs, fmt.Errorf("verify exits with %d", r.Code))
	}
	return v, errors.Join(errs...)
}

// end waits until stoker is idle, stops it, and judges all that it did: `stoker verify`, and outside the machine what it
// left there.
func (g *guest) end(f folders, inputs ...rig.Input) (v rig.Verification, tally rig.Tally, err error) {
	if err := g.awaitIdle(f); err != nil {
		return v, tally, err
	}
	if _, err := g.try("systemctl stop stoker"); err != nil {
		return v, tally, err
	}
	v, err = g.verify(false)
	h, err2 := g.fetch(f)
	if err2 != nil {
		return v, tally, errors.Join(err, err2)
	}
	tally, err2 = h.Tally(inputs...)
	return v, tally, errors.Join(err, err2, h.Judge(inputs...))
}

// fetch brings stoker's folders out of the machine, into a home that can be judged.
func (g *guest) fetch(f folders) (*rig.Home, error) {
	dir, err := os.MkdirTemp(shop.place, "fetched-")
	if err != nil {
		return nil, err
	}
	out, err := g.try(`home=$(mktemp -d) && cd "$home" && ln -s %s inbox && ln -s %s outbox && ln -s %s archive && ln -s %s .state
		tar -chz --ignore-failed-read inbox/ outbox/ archive/ .state/ | base64 -w0; rm -r "$home"`, f.inbox, f.outbox, f.archive, f.state)
	if err != nil {
		return nil, err
	}
	if err := unpack(dir, out); err != nil {
		return nil, fmt.Errorf("fetch what stoker left: %w", err)
	}
	return rig.At(g.t, dir, ""), nil
}

// unpack unpacks files and folders; others do not count.
func unpack(dir, encoded string) error {
	packed, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(encoded)))
	if err != nil {
		return err
	}
	for in := tar.NewReader(packed); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, header.Name)
		switch header.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			err = unpackFile(path, in)
		}
		if err != nil {
			return err
		}
	}
}

func unpackFile(path string, from io.Reader) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Close())
}
