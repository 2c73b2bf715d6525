package pyenv

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// minDriver is the oldest NVIDIA driver for CUDA 13, which vLLM 0.32 is built for (CUDA 13.0 release notes, table of
// driver versions).
const minDriver = 580

var driverVersion = regexp.MustCompile(`\b(\d{3,4})\.\d+(\.\d+)?\b`)

// machine is what of the computer decides which build of vLLM fits.
type machine struct {
	gpu    string // how an NVIDIA GPU was seen; "" if there is none
	driver string // the NVIDIA driver's version; "" if unknown
}

// device is the one that vLLM should compute on.
func (m machine) device() Device {
	if m.gpu != "" {
		return CUDA
	}
	return CPU
}

// driverTooOld reports whether the driver is known and cannot run CUDA 13.
func (m machine) driverTooOld() bool {
	found := driverVersion.FindStringSubmatch(m.driver)
	if found == nil {
		return false
	}
	major, err := strconv.Atoi(found[1])
	return err == nil && major < minDriver
}

// lookAtMachine looks for an NVIDIA GPU: by nvidia-smi, which also works in containers without /proc/driver, else by the
// driver's files, which are there when nvidia-smi is not installed. root is "/" but in tests.
func lookAtMachine(ctx context.Context, environ []string, root string) machine {
	for _, smi := range onPath(environ, "nvidia-smi") {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // a GPU that fell off the bus makes it hang
		out, err := exec.CommandContext(ctx, smi, "--query-gpu=driver_version", "--format=csv,noheader").Output()
		cancel()
		if version := driverVersion.Find(out); err == nil && version != nil {
			return machine{gpu: "nvidia-smi", driver: string(version)}
		}
	}
	if text, err := os.ReadFile(filepath.Join(root, "proc/driver/nvidia/version")); err == nil {
		return machine{gpu: "/proc/driver/nvidia/version", driver: string(driverVersion.Find(text))}
	}
	if _, err := os.Stat(filepath.Join(root, "dev/nvidia0")); err == nil {
		return machine{gpu: "/dev/nvidia0"}
	}
	return machine{}
}

// freeSpace is what an unprivileged user may still write, in bytes, where dir is or will be.
func freeSpace(dir string) (uint64, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		switch {
		case err == nil:
			return st.Bavail * uint64(st.Bsize), nil
		case errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir):
			dir = filepath.Dir(dir)
		default:
			return 0, fmt.Errorf("ask for free space at %s: %w", dir, err)
		}
	}
}
