package disk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Isolate gives this process mounts of its own, which end with it and with those that it starts: a test that is killed
// leaves none behind. It must be called first: the process begins once more.
func Isolate() error {
	const isolated = "CRASHDISK_ISOLATED"
	if os.Getenv(isolated) != "" {
		return os.Unsetenv(isolated)
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("take mounts of one's own (root may): %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("begin anew: %w", unix.Exec(self, os.Args, append(os.Environ(), isolated+"=1")))
}

// Format makes a file system on a disk.
func (r *Rack) Format(disk int, mkfs string, args ...string) error {
	device, err := Loop(r.Path(disk))
	if err != nil {
		return err
	}
	defer device.Close()
	if out, err := exec.Command(mkfs, append(args, device.Name())...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", mkfs, err, out)
	}
	return device.Sync()
}

// Mount mounts a disk's file system.
func (r *Rack) Mount(disk int, dir, kind, options string) error {
	device, err := Loop(r.Path(disk))
	if err != nil {
		return err
	}
	defer device.Close()
	if err := unix.Mount(device.Name(), dir, kind, unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mount %s at %s: %w", kind, dir, err)
	}
	return nil
}

// busy is how long Unmount waits for processes that just died to let go of their files.
const busy = 10 * time.Second

// Unmount ends a mount.
func Unmount(dir string) error {
	for end := time.Now().Add(busy); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Unmount(dir, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
}
