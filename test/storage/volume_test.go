package storage

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/test/crashdisk/disk"
)

// volume is a small filesystem of its own.
type volume struct {
	t   testing.TB
	dir string
}

// newVolume makes an ext4 of so many MiB in a file and mounts it on a folder, which is made.
func newVolume(t testing.TB, dir string, size int64) *volume {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	makeImage(t, image, size)
	v := &volume{t, dir}
	v.mount(image)
	return v
}

func makeImage(t testing.TB, image string, size int64) {
	t.Helper()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
}

// mount mounts the image by a loop device that is gone with the mount.
func (v *volume) mount(image string) {
	v.t.Helper()
	if err := os.MkdirAll(v.dir, 0o775); err != nil {
		v.t.Fatal(err)
	}
	device, err := disk.Loop(image)
	if err != nil {
		v.t.Fatal(err)
	}
	defer device.Close()
	if err := unix.Mount(device.Name(), v.dir, "ext4", 0, ""); err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { unix.Unmount(v.dir, unix.MNT_DETACH) })
}

// fill uses up all room, to the last block.
func (v *volume) fill() {
	v.t.Helper()
	f, err := os.OpenFile(v.filler(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		v.t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 16 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
}

// free gives the room back.
func (v *volume) free() {
	v.t.Helper()
	if err := os.Remove(v.filler()); err != nil {
		v.t.Error(err)
	}
}

func (v *volume) filler() string { return filepath.Join(v.dir, ".fill") }

// remount makes the volume read-only, or writable again, once nobody writes.
func (v *volume) remount(flags uintptr) {
	v.t.Helper()
	var err error
	for range 500 {
		if err = unix.Mount("", v.dir, "", unix.MS_REMOUNT|flags, ""); err == nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	v.t.Fatalf("remount with %#x: %v", flags, err)
}

// newMemory mounts a filesystem in memory, of so many MiB, on a folder, which is made.
func newMemory(t testing.TB, dir string, size int) *volume {
	t.Helper()
	if err := os.MkdirAll(dir, 0o775); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return &volume{t, dir}
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}
