//go:build disk

package crashdisk

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"stoker/test/crashdisk/disk"
	"stoker/test/rig"
)

// kind is a file system.
type kind struct {
	name    string
	size    int64 // the least that it can be made on, or a little more
	sector  int   // what the disk must write as a whole
	mkfs    []string
	options string // of its mount
}

var kinds = map[string]kind{
	"ext4": {name: "ext4", size: 48 << 20, sector: 512, mkfs: []string{"mkfs.ext4", "-q", "-b", "4096", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"}},
	// XFS trusts a block whose first sector is new to be new throughout, and a second cut finds it damaged otherwise. Two
	// disks with one history are mounted at a time here, which it takes for a mistake.
	"xfs":   {name: "xfs", size: 320 << 20, sector: 4096, mkfs: []string{"mkfs.xfs", "-q", "-K"}, options: "nouuid"},
	"btrfs": {name: "btrfs", size: 128 << 20, sector: 512, mkfs: []string{"mkfs.btrfs", "-q", "-K", "--mixed"}},
}

// layout is which disks stoker's folders are on.
type layout []string // where each disk is mounted, from the home

var (
	oneDisk    = layout{""}
	threeDisks = layout{"", "inbox", "outbox"} // inputs move from one file system to another
)

// machine is disks with a file system on each, mounted as stoker's home.
type machine struct {
	kind   kind
	layout layout
	rack   *disk.Rack
	dir    string
}

// settings take files quickly, and let the work last for some commits.
const settings = rig.Config + "delay = \"200ms\"\n"

// newMachine makes disks with stoker's empty home on them, not mounted.
func newMachine(t *testing.T, k kind, l layout, sizes ...int64) *machine {
	t.Helper()
	for len(sizes) < len(l) {
		sizes = append(sizes, k.size)
	}
	rack, err := server.NewRack(k.sector, sizes...)
	if err != nil {
		t.Fatal(err)
	}
	m := on(t, rack, k, l)
	if err := errors.Join(m.format(), m.rack.Settle()); err != nil {
		t.Fatal(err)
	}
	return m
}

// on is a machine with a rack's disks.
func on(t *testing.T, rack *disk.Rack, k kind, l layout) *machine {
	t.Helper()
	dir, err := os.MkdirTemp(place, k.name+"-")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{kind: k, layout: l, rack: rack, dir: dir}
	t.Cleanup(m.discard)
	return m
}

// discard ends what a failed test may have left mounted. Nobody needs it any more.
func (m *machine) discard() {
	for i := range m.layout {
		unix.Unmount(filepath.Join(m.dir, m.layout[len(m.layout)-1-i]), unix.MNT_DETACH)
	}
	m.rack.Drop()
}

func (m *machine) format() error {
	for i := range m.layout {
		if err := m.rack.Format(i, m.kind.mkfs[0], m.kind.mkfs[1:]...); err != nil {
			return err
		}
	}
	if err := m.mount(); err != nil {
		return err
	}
	errs := []error{os.WriteFile(filepath.Join(m.dir, "config.toml"), []byte(settings), 0o600)}
	for _, dir := range m.layout {
		errs = append(errs, os.RemoveAll(filepath.Join(m.dir, dir, "lost+found")))
	}
	return errors.Join(append(errs, m.unmount())...)
}

func (m *machine) mount() error {
	for i, at := range m.layout {
		dir := filepath.Join(m.dir, at)
		if err := os.MkdirAll(dir, 0o775); err != nil {
			return err
		}
		if err := m.rack.Mount(i, dir, m.kind.name, m.kind.options); err != nil {
			return errors.Join(err, m.unmountFirst(i))
		}
	}
	return nil
}

func (m *machine) unmount() error { return m.unmountFirst(len(m.layout)) }

// unmountFirst unmounts the first n disks, the last one first.
func (m *machine) unmountFirst(n int) (err error) {
	for i := n - 1; i >= 0; i-- {
		err = errors.Join(err, disk.Unmount(filepath.Join(m.dir, m.layout[i])))
	}
	return err
}

// home is stoker on this machine. What the daemon says goes to a file elsewhere.
func (m *machine) home(t testing.TB, binary string, env ...string) *rig.Home {
	h := rig.At(t, m.dir, binary)
	h.Env = env
	h.Output = m.dir + ".log"
	t.Cleanup(h.Kill) // before the disks go
	return h
}

func (m *machine) String() string { return fmt.Sprintf("%s, %d disks", m.kind.name, len(m.layout)) }
