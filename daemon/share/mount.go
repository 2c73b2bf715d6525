package share

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// UnmountedError means that a folder is not what is to be mounted there, but the one that lies below it.
type UnmountedError struct {
	Name, Dir string
	Mount     string // what is no mount point
	Since     time.Time
}

func (e *UnmountedError) Error() string {
	if e.Mount != e.Dir {
		return fmt.Sprintf("%s %s was on the share at %s, which is not mounted; inbox.require_mount is set", e.Name, e.Dir, e.Mount)
	}
	return fmt.Sprintf("%s %s is not mounted; inbox.require_mount is set", e.Name, e.Dir)
}

// checkMount returns an *UnmountedError if the folder is not where it must be. It may hang as any operation.
func (f *folder) checkMount() error {
	if !f.Mount && !f.Stay {
		return nil
	}
	f.mu.Lock()
	mount := f.mount
	f.mu.Unlock()
	if f.Mount {
		mount = f.Dir
	}
	if mount == "" {
		return f.settle()
	}
	mounted, err := isMountPoint(mount)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case mounted:
		f.unmounted = nil
		return nil
	case f.unmounted == nil:
		f.unmounted = &UnmountedError{f.Name, f.Dir, mount, time.Now()}
	}
	return f.unmounted
}

// settle takes down where the folder is mounted.
func (f *folder) settle() error {
	mount, err := mountOf(f.Dir)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.mount = mount
	return nil
}

// mountOf returns the mount point that a folder is below, "" while there is no such folder.
func mountOf(dir string) (string, error) {
	for ; ; dir = filepath.Dir(dir) {
		mounted, err := isMountPoint(dir)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		if err != nil || mounted || dir == filepath.Dir(dir) {
			return dir, err
		}
	}
}

// isMountPoint reports whether something is mounted on a folder, be it a part of the same filesystem.
func isMountPoint(dir string) (bool, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_TYPE, &st); err != nil {
		return false, &fs.PathError{Op: "statx", Path: dir, Err: err}
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	var parent unix.Statx_t // Linux before 5.8
	if err := unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), 0, unix.STATX_TYPE, &parent); err != nil {
		return false, &fs.PathError{Op: "statx", Path: filepath.Dir(dir), Err: err}
	}
	return st.Dev_major != parent.Dev_major || st.Dev_minor != parent.Dev_minor || dir == filepath.Dir(dir), nil
}
