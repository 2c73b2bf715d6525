//go:build disk

// Package crashdisk holds what is proved about stoker on disks that lose power, fail or fill up: real file systems on
// disks that keep a log of each write and each flush.
package crashdisk

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"stoker/test/crashdisk/disk"
	"stoker/test/rig"
)

func TestMain(m *testing.M) {
	disk.Serve()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "crashdisk:", err)
		code = 1
	}
	os.Exit(code)
}

var (
	place  string // a folder for everything here
	server *disk.Server
)

func run(m *testing.M) (code int, err error) {
	if err := errors.Join(needed(), disk.Isolate()); err != nil {
		return 0, err
	}
	if err := rig.Sweep(prefix); err != nil {
		return 0, err
	}
	if place, err = os.MkdirTemp("", fmt.Sprintf("%s%d-", prefix, os.Getpid())); err != nil {
		return 0, err
	}
	defer os.RemoveAll(place)
	os.Setenv("TMPDIR", place)
	disks := filepath.Join(place, "disks")
	if err := os.Mkdir(disks, 0o700); err != nil {
		return 0, err
	}
	if server, err = disk.Start(disks); err != nil {
		return 0, err
	}
	code = rig.Main(m)
	return code, server.Close()
}

// needed tells what is missing here. These tests do not skip themselves.
func needed() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("only root may mount: run these tests as root"))
	}
	for _, device := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(device); err != nil {
			errs = append(errs, fmt.Errorf("needs FUSE and loop devices: %w", err))
		}
	}
	for _, k := range kinds {
		if _, err := exec.LookPath(k.mkfs[0]); err != nil {
			errs = append(errs, fmt.Errorf("needs e2fsprogs, xfsprogs and btrfs-progs: %w", err))
		}
	}
	return errors.Join(errs...)
}

// prefix begins the name of a run's folder; the process's number follows.
const prefix = "stoker-crashdisk-"
