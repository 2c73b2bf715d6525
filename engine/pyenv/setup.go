package pyenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Options says what Setup is to do.
type Options struct {
	Device    Device // "": what the machine has
	Python    string // interpreter or environment's folder: adopted if it has vLLM, else what a new one is made with; "": found
	DemoModel bool   // make a small model to try stoker with
	DryRun    bool   // tell, and do nothing
	Shared    bool   // other users, such as the service's, must be able to run the environment
	Places    Places
	RunWith   string    // the command that starts the daemon here, such as "stoker --root x run": told at the end
	Environ   []string  // as os.Environ
	Out       io.Writer // for the user

	torchIndex string // of PyTorch's CPU builds; "": pytorchIndex
}

// Setup adopts or makes the Python environment with the vLLM that fits the machine, and writes a first configuration.
// It may be interrupted and run again at any time: what is in place stays, what is unfinished is made anew.
//
// Errors are *Error where the user can act; they match ErrNoPython, ErrNoVLLM, ErrNoSpace or ErrInstall.
func Setup(ctx context.Context, o Options) error {
	r := report{out: o.Out}
	if o.Shared {
		defer unix.Umask(unix.Umask(0o022)) // the superuser's may be such that nobody else could read what is made
	}
	p, err := makePlan(ctx, o)
	if err != nil {
		return err
	}
	p.tell(r)
	if err := p.checkSpace(); err != nil {
		return err
	}
	if o.DryRun {
		r.line("nothing was done: --dry-run")
		return nil
	}
	if p.makesVenv() || p.makesDemo() {
		if err := p.install(ctx, o, r); err != nil {
			return err
		}
	}
	return p.configure(r, o.RunWith)
}

// install makes what is missing.
func (p *plan) install(ctx context.Context, o Options, r report) error {
	unlock, err := lock(p.places.Tools)
	if err != nil {
		return err
	}
	defer unlock()
	u := uv{path: p.uv, environ: o.Environ, report: r}
	if u.path == "" {
		err := r.step("installing uv", func() (err error) {
			u.path, err = installUV(ctx, p.anyPython().Path, p.places.Tools, o.Environ, r)
			return err
		})
		if err != nil {
			return err
		}
	}
	if p.makesVenv() {
		if err := p.installVenv(ctx, u, r); err != nil {
			return err
		}
	}
	if p.makesDemo() {
		return r.step("making the demo model", func() error { return makeDemo(ctx, u, p.ready.Path, p.places.Models) })
	}
	return nil
}

// anyPython is one that can run pip.
func (p *plan) anyPython() Interpreter {
	if p.makesVenv() {
		return p.base
	}
	return p.ready
}

func (p *plan) installVenv(ctx context.Context, u uv, r report) error {
	dir := p.places.Venv
	if err := r.step("making the environment", func() error { return makeVenv(ctx, u, dir, p.base) }); err != nil {
		return err
	}
	err := r.step("installing "+requirement(p.device), func() error { return p.installPackages(ctx, u, r) })
	if err != nil {
		return err
	}
	return r.step("checking it and writing it to disk", func() (err error) {
		p.ready, err = finishVenv(ctx, dir, p.device)
		return err
	})
}

// installPackages falls back to PyPI's torch where PyTorch's index answers, but what it refers to does not.
func (p *plan) installPackages(ctx context.Context, u uv, r report) error {
	err := installVLLM(ctx, u, p.places.Venv, p.device, p.source)
	if err == nil || p.source != torchFromPyTorch || !errors.Is(err, ErrInstall) {
		return err
	}
	r.line("  %s did not do: torch from PyPI instead", p.source)
	p.source = torchFromPyPI
	if err := p.checkSpace(); err != nil {
		return err
	}
	return installVLLM(ctx, u, p.places.Venv, p.device, p.source)
}

// lock keeps a second Setup from the same places. The returned function releases them.
func lock(tools string) (func(), error) {
	if err := os.MkdirAll(tools, 0o755); err != nil {
		return nil, fmt.Errorf("lock %s: %w", tools, err)
	}
	f, err := os.OpenFile(filepath.Join(tools, "setup.lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, &Error{Kind: ErrInstall, Message: "another `stoker setup` is at work in " + filepath.Dir(tools), Hint: "wait for it"}
		}
		return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return func() { f.Close() }, nil
}

// configure writes the configuration and tells what to do next.
func (p *plan) configure(r report, runWith string) error {
	model := ""
	if p.demo {
		model = demoFolder(p.places.Models)
	}
	s := newSettings(p.ready, model)
	became, err := s.write(p.places.Config)
	if err != nil {
		return err
	}
	switch became {
	case written:
		r.line("wrote %s", p.places.Config)
	case kept:
		r.line("kept %s: it names this environment", p.places.Config)
	case foreign:
		return p.tellLines(r, s, runWith)
	}
	if !namesModel(p.places.Config) {
		r.line("next: name a model in %s, then: %s", p.places.Config, runWith)
		return nil
	}
	r.line("next: %s", runWith)
	return nil
}

// tellLines prints what the user's own configuration lacks.
func (p *plan) tellLines(r report, s settings, runWith string) error {
	text, err := s.document()
	if err != nil {
		return err
	}
	r.line("%s is yours and stays as it is; these lines use the environment:", p.places.Config)
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "# Written by") {
			r.line("  %s", strings.TrimRight(line, "\n"))
		}
	}
	r.line("next: edit it, then: %s", runWith)
	return nil
}
