package engine

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"stoker/store/durable"
)

// groupFile records the process group of the worker that was started last. The token in the environment is not enough to
// find what it left behind: vLLM's EngineCore writes its title over its environment.
const groupFile = "worker.group"

// group is a worker's process group. The boot and the executable tell it from one that got the same number later.
type group struct {
	boot string
	id   int
	exe  string
}

// recordGroup is called before the worker starts anything itself. It need not survive a power cut: nor does the worker.
func recordGroup(dir string, id int) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(id), "exe"))
	if err != nil {
		return nil // it is gone already, with nothing of its own
	}
	return durable.WriteFile(durable.Local{}, filepath.Join(dir, groupFile), fmt.Appendf(nil, "%s %d %s\n", boot, id, exe), 0o600)
}

// lastGroup returns the group that was recorded, if it is of this boot.
func lastGroup(dir string) (g group, ok bool) {
	b, err := os.ReadFile(filepath.Join(dir, groupFile))
	if err != nil {
		return group{}, false
	}
	fields := strings.SplitN(strings.TrimSpace(string(b)), " ", 3)
	boot, err := bootID()
	if err != nil || len(fields) != 3 || fields[0] != boot {
		return group{}, false
	}
	id, err := strconv.Atoi(fields[1])
	return group{boot: boot, id: id, exe: fields[2]}, err == nil && id > 1
}

// holds reports whether a process, which is in a group of this number, is of this group.
func (g group) holds(procDir string) bool {
	exe, err := os.Readlink(filepath.Join(procDir, "exe"))
	return err == nil && exe == g.exe
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}
