package engine

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"

	"stoker/engine/environment"
)

// GPUs are the NVIDIA GPUs that a process with this environment may use, each once, as CUDA_VISIBLE_DEVICES names them: those
// that it lists, else those that nvidia-smi does. Where there is no such tool there are none; an error is that of the tool.
func GPUs(ctx context.Context, env []string) ([]string, error) {
	if list, ok := visibleDevices(env); ok {
		return list, nil
	}
	out, err := smi(ctx, "--query-gpu=index", "--format=csv,noheader")
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("list GPUs: nvidia-smi: %w", err)
	}
	return strings.Fields(out), nil
}

// smiTimeout bounds nvidia-smi, which hangs while a GPU's driver does.
const smiTimeout = 10 * time.Second

// smi asks NVIDIA's tool.
func smi(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, smiTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nvidia-smi", args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	return string(out), err
}

// visibleDevices are those that CUDA_VISIBLE_DEVICES lists, if it is set.
func visibleDevices(env []string) (devices []string, set bool) {
	list, set := environment.Lookup(env, "CUDA_VISIBLE_DEVICES")
	for d := range strings.SplitSeq(list, ",") {
		if d = strings.TrimSpace(d); d != "" && !slices.Contains(devices, d) {
			devices = append(devices, d)
		}
	}
	return devices, set
}
