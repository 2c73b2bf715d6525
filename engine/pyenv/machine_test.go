package pyenv

import (
	"path/filepath"
	"testing"
)

const procVersion = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.133.20  Release Build\nGCC version:  gcc version 12.2.0\n"

func TestLookAtMachine(t *testing.T) {
	smi := filepath.Dir(script(t, filepath.Join(t.TempDir(), "nvidia-smi"), "echo 580.95.05; echo 580.95.05\n"))
	broken := filepath.Dir(script(t, filepath.Join(t.TempDir(), "nvidia-smi"), "echo 'Failed to initialize NVML: 12.8.1'; exit 9\n"))
	proc, dev, none := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, filepath.Join(proc, "proc/driver/nvidia/version"), procVersion)
	write(t, filepath.Join(dev, "dev/nvidia0"), "")
	for _, tc := range []struct {
		name, path, root string
		want             machine
		device           Device
		tooOld           bool
	}{
		{"nvidia-smi", smi, none, machine{"nvidia-smi", "580.95.05"}, CUDA, false},
		{"broken nvidia-smi", broken, none, machine{}, CPU, false},
		{"broken nvidia-smi, driver", broken, proc, machine{"/proc/driver/nvidia/version", "570.133.20"}, CUDA, true},
		{"device file", none, dev, machine{"/dev/nvidia0", ""}, CUDA, false},
		{"none", none, none, machine{}, CPU, false},
	} {
		got := lookAtMachine(t.Context(), []string{"PATH=" + tc.path}, tc.root)
		if got != tc.want || got.device() != tc.device || got.driverTooOld() != tc.tooOld {
			t.Errorf("%s: %+v, %s, too old %t", tc.name, got, got.device(), got.driverTooOld())
		}
	}
}

func TestFreeSpaceOfFolderToBe(t *testing.T) {
	free, err := freeSpace(filepath.Join(t.TempDir(), "not", "there", "yet"))
	if err != nil || free == 0 {
		t.Errorf("freeSpace = %d, %v", free, err)
	}
}
