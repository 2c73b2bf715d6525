//go:build vm

// Package vm holds what is proved about stoker as a system service: the package, installed in a virtual machine with
// Debian 12 and its systemd, whose power is cut and whose shares are real.
package vm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"stoker/test/crashdisk/disk"
	"stoker/test/rig"
	"stoker/test/vm/machine"
)

const (
	// packageVar names the environment variable with the .deb that is installed.
	packageVar = "STOKER_DEB"
	// builds is where what is made once is kept: the image; and of machines that failed, their consoles.
	builds = "../../build/vm"
)

func TestMain(m *testing.M) {
	disk.Serve()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = 1
	}
	os.Exit(code)
}

// lab is what all machines are made of.
type lab struct {
	place  string // a folder for everything that goes in the end
	image  string // the folder with kernel and root disk
	deb    []byte // the package
	media  machine.Disk
	server *disk.Server // of the disks that lose what was not flushed
}

var shop lab

func run(m *testing.M) (code int, err error) {
	if err := disk.Isolate(); err != nil {
		return 0, err
	}
	if shop.image, err = image(); err != nil {
		return 0, err
	}
	if err := rig.Sweep(prefix); err != nil {
		return 0, err
	}
	if shop.place, err = os.MkdirTemp("", fmt.Sprintf("%s%d-", prefix, os.Getpid())); err != nil {
		return 0, err
	}
	defer os.RemoveAll(shop.place)
	os.Setenv("TMPDIR", shop.place)
	if shop.media, err = media(); err != nil {
		return 0, err
	}
	disks := filepath.Join(shop.place, "disks")
	if err := os.Mkdir(disks, 0o700); err != nil {
		return 0, err
	}
	if shop.server, err = disk.Start(disks); err != nil {
		return 0, err
	}
	code = m.Run()
	return code, shop.server.Close()
}

// prefix begins the name of a run's folder; the process's number follows.
const prefix = "stoker-vm-"

// image returns the folder with the machine's kernel and root disk. It is built when there is none of its recipe.
func image() (string, error) {
	const script = "image.sh"
	recipe, err := os.ReadFile(script)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(builds, fmt.Sprintf("image-%x", sha256.Sum256(recipe))[:18])
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(builds, 0o755); err != nil {
		return "", err
	}
	olds, err := filepath.Glob(filepath.Join(builds, "image-*"))
	if err != nil {
		return "", err
	}
	for _, old := range olds {
		if err := os.RemoveAll(old); err != nil {
			return "", err
		}
	}
	half := filepath.Join(builds, "image-half")
	if out, err := exec.Command("./"+script, half).CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the image: %w\n%s", err, out)
	}
	return dir, os.Rename(half, dir)
}

// media makes a disk with what is installed: the package, and stoker with its planted bugs.
func media() (d machine.Disk, err error) {
	deb := os.Getenv(packageVar)
	if deb == "" {
		return d, errors.New("no package: make packages, and name it in $" + packageVar)
	}
	dir := filepath.Join(shop.place, "media")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return d, err
	}
	shop.deb, err = os.ReadFile(deb)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "stoker.deb"), shop.deb, 0o644)
	}
	if err != nil {
		return d, err
	}
	build := exec.Command("go", "build", "-tags", "faults", "-o", filepath.Join(dir, "stoker-faults"), "stoker/cmd/stoker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return d, fmt.Errorf("build stoker with its planted bugs: %w\n%s", err, out)
	}
	d = machine.Disk{Serial: "media", File: filepath.Join(shop.place, "media.img"), Format: "raw", ReadOnly: true}
	if out, err := exec.Command("mke2fs", "-q", "-t", "ext4", "-d", dir, d.File, "192M").CombinedOutput(); err != nil {
		return d, fmt.Errorf("make a disk of the package: %w\n%s", err, out)
	}
	return d, nil
}
