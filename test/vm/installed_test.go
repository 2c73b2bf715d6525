//go:build vm

package vm

import (
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
	disk machine.Disk
}

var installed installation

// root returns the disk, to begin others with.
func (i *installation) root(t testing.TB) machine.Disk {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.disk.File != "" {
		return i.disk
	}
	g := newGuest(t, bare())
	g.sh("dpkg -i /media/stoker.deb")
	g.write("/etc/stoker/config.toml", settings)
	g.sh("systemctl enable stoker")
	g.leave("poweroff")
	i.disk = g.parts.Disks[0]
	return i.disk
}

// bare is a Debian without stoker.
func bare() machine.Disk {
	return machine.Disk{Serial: "root", File: shop.image + "/root.img", Format: "raw"}
}
