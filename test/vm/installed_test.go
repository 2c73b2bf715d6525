//go:build vm

package vm

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"stoker/test/vm/machine"
)

// settings are those of most tests here: files are taken quickly, and the work lasts for some commits.
const settings = `[inbox]
settle = "300ms"
rescan = "1s"
[log]
level = "debug"
[engine]
kind = "echo"
[engine.args]
delay = "200ms"
[api]
socket = "/run/stoker/stoker.sock"
`

// installation is a root disk with stoker installed, made once.
type installation struct {
	mu   sync.Mutex
	made bool
	disk machine.Disk
}

var installed installation

// root returns the disk, to begin others with.
func (i *installation) root(t testing.TB) machine.Disk {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.made {
		return i.disk
	}
	path, err := i.path()
	if err != nil {
		t.Fatal(err)
	}
	i.disk = machine.Disk{Serial: "root", File: path, Format: "qcow2"}
	if _, err := os.Stat(path); err == nil {
		i.made = true
		return i.disk
	}
	g := newGuest(t, bare())
	g.sh("dpkg -i /media/stoker.deb")
	g.write("/etc/stoker/config.toml", settings)
	g.sh("systemctl enable stoker")
	g.leave("poweroff")
	if out, err := exec.Command("mv", g.parts.Disks[0].File, path).CombinedOutput(); err != nil {
		t.Fatalf("keep the disk: %s", out)
	}
	i.made = true
	return i.disk
}

// path is where the disk is kept, as long as image, package and settings are what they are. Others are removed.
func (i *installation) path() (string, error) {
	olds, err := filepath.Glob(filepath.Join(shop.image, "installed-*"))
	if err != nil {
		return "", err
	}
	path := filepath.Join(shop.image, fmt.Sprintf("installed-%x", sha256.Sum256(slices.Concat(shop.deb, []byte(settings))))[:22])
	for _, old := range olds {
		if old == path {
			continue
		}
		if err := os.Remove(old); err != nil {
			return "", err
		}
	}
	return path, nil
}

// bare is a Debian without stoker.
func bare() machine.Disk {
	return machine.Disk{Serial: "root", File: shop.image + "/root.img", Format: "raw"}
}
