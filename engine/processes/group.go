package processes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"stoker/store/durable"
)

// groupFile records the process groups of the worker that was started last, and of former ones that still have members.
// The token in the environment is not enough to find what they left behind: vLLM's EngineCore writes its title over its
// environment.
const groupFile = "worker.group"

// group is a worker's process group. The boot and the executable tell it from one that got the same number later.
type group struct {
	boot string
	id   int
	exe  string
}

// RecordGroup is called when the worker has said hello: by then a wrapper around the interpreter has made way for it, and
// the worker has started nothing itself, because it does not know yet what to load. The record need not survive a power
// cut: nor does the worker.
func (m Marks) RecordGroup(id int) error {
	boot, err := bootID()
	if err != nil {
		return err
	}
	exe, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(id), "exe"))
	if err != nil {
		return nil // it is gone already, with nothing of its own
	}
	var record []byte
	for _, g := range append(recordedGroups(m.Dir), group{boot, id, exe}) {
		if g.id == id && g.exe != exe {
			continue // the number is another's now
		}
		members, err := living(g.holds)
		if err != nil {
			return err
		}
		if line := fmt.Appendf(nil, "%s %d %s\n", g.boot, g.id, g.exe); len(members) > 0 && !bytes.Contains(record, line) {
			record = append(record, line...)
		}
	}
	return durable.WriteFile(durable.Local{}, filepath.Join(m.Dir, groupFile), record, 0o600)
}

// recordedGroups returns the groups that were recorded, if they are of this boot.
func recordedGroups(dir string) []group {
	record, err := os.ReadFile(filepath.Join(dir, groupFile))
	if err != nil {
		return nil
	}
	boot, err := bootID()
	if err != nil {
		return nil
	}
	var groups []group
	for line := range strings.Lines(string(record)) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 3)
		if len(fields) != 3 || fields[0] != boot {
			continue
		}
		if id, err := strconv.Atoi(fields[1]); err == nil && id > 1 {
			groups = append(groups, group{boot: boot, id: id, exe: fields[2]})
		}
	}
	return groups
}

// holds reports whether a process is of this group. One that dies has no executable any more, but may still have a GPU's memory.
func (g group) holds(p Stat) bool {
	if p.Group != g.id {
		return false
	}
	exe, err := os.Readlink(p.path("exe"))
	return err == nil && exe == g.exe || errors.Is(err, fs.ErrNotExist)
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}
