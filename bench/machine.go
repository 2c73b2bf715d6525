package bench

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
)

// Machine is what the figures were measured on.
type Machine struct {
	CPU   string   `json:"cpu"`
	Cores int      `json:"cores"`
	GPUs  []string `json:"gpus,omitzero"`
	Load  string   `json:"load_average"` // before the first round: others may have been at work
}

// LookAtMachine asks /proc and nvidia-smi.
func LookAtMachine(ctx context.Context) Machine {
	m := Machine{Cores: runtime.NumCPU(), CPU: runtime.GOARCH}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, model, ok := strings.Cut(string(info), "model name"); ok {
			line, _, _ := strings.Cut(model, "\n")
			m.CPU = strings.Trim(line, " \t:")
		}
	}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		m.Load, _, _ = strings.Cut(string(load), " ")
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // a GPU that fell off the bus makes it hang
	defer cancel()
	if out, err := exec.CommandContext(ctx, "nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader").Output(); err == nil {
		m.GPUs = strings.Split(strings.TrimSpace(string(out)), "\n")
	}
	return m
}

func (m Machine) String() string {
	text := fmt.Sprintf("%d cores of %s, load %s", m.Cores, m.CPU, m.Load)
	if len(m.GPUs) > 0 {
		text += ", " + strings.Join(m.GPUs, ", ")
	}
	return text
}
