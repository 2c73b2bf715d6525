package rig

import (
	"fmt"
	"os"
	"path/filepath"
)

// Sweep removes the folders of runs that were killed: those among the temporary ones whose name begins with prefix and the
// number of a process that is gone. What such a run had mounted went with it.
func Sweep(prefix string) error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), prefix+"[0-9]*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), prefix+"%d-", &pid); err != nil {
			continue
		}
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("sweep what a former run left: %w", err)
		}
	}
	return nil
}
