package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"stoker/daemon/config"
	"stoker/engine"
	"stoker/engine/echo"
	"stoker/engine/environment"
	"stoker/engine/processes"
	"stoker/engine/pyenv"
	"stoker/engine/worker"
)

// startEngine starts the engine that the configuration names.
func (d *Daemon) startEngine(ctx context.Context) (engine.Engine, error) {
	e := &d.o.Config.Engine
	launch := d.launchVLLM
	if e.Kind == config.KindEcho {
		launch = d.launchEcho
	}
	replicas := d.replicas(ctx)
	group, err := processes.EnterDelegated()
	if err != nil {
		d.component("engine").Warn().Err(err).Msg("workers have no control group of their own")
	}
	return engine.Start(engine.Options{
		Cgroup: group,
		Kind:   string(e.Kind), Instance: d.store.Instance(), LogDir: d.store.Dir(), Prepare: d.sharing(launch, replicas), InFlight: e.InFlight,
		LoadStall: time.Duration(e.LoadStall), Hang: time.Duration(e.Hang), Logger: *d.component("engine"),
	}, replicas)
}

func (d *Daemon) launchEcho(context.Context) (engine.Launch, error) {
	e := &d.o.Config.Engine
	return engine.Launch{
		Argv: []string{d.o.Executable, echo.Command}, Env: workerEnv(d.o.Environ, e.Env, nil),
		Model: e.Model, ServedNames: e.ServedNames, Args: e.Args,
	}, nil
}

// launchVLLM finds the interpreter anew for each start: the user may have mended it meanwhile.
func (d *Daemon) launchVLLM(ctx context.Context) (engine.Launch, error) {
	python, err := FindPython(ctx, &d.o)
	if unfit, ok := errors.AsType[*pyenv.Error](err); ok && !pyenv.IsTemporary(unfit) {
		return engine.Launch{}, &engine.PermanentError{Message: unfit.Error(), Hint: unfit.Hint}
	}
	if err != nil {
		return engine.Launch{}, err
	}
	d.component("engine").Info().Str("python", python.String()).Str("because", python.How).Msg("found Python")
	script, err := worker.Install(filepath.Join(d.store.Dir(), "worker"))
	if err != nil {
		return engine.Launch{}, err
	}
	launch, err := VLLMLaunch(&d.o, python.Path, script)
	launch.Env = withCaches(launch.Env, d.store.Dir())
	return launch, err
}

// FindPython finds the interpreter that o's configuration means. The error may be a *pyenv.Error.
func FindPython(ctx context.Context, o *Options) (pyenv.Interpreter, error) {
	places, err := pyenv.DefaultPlaces(o.Root, "", o.Environ, os.Geteuid() == 0)
	if err != nil {
		return pyenv.Interpreter{}, err
	}
	dir := ""
	if o.ConfigFile != "" {
		dir = filepath.Dir(o.ConfigFile)
	}
	return pyenv.FindPython(ctx, pyenv.Search{
		Configured: o.Config.Engine.Python, ConfigDir: dir, SetupVenv: places.Venv, Environ: o.Environ, Interactive: o.Interactive,
	})
}

// VLLMLaunch is how an interpreter runs a script with the model, the engine arguments and the environment that are configured.
func VLLMLaunch(o *Options, python, script string) (engine.Launch, error) {
	e := &o.Config.Engine
	secrets, err := hubEnv(e)
	if err != nil {
		return engine.Launch{}, &engine.PermanentError{Message: err.Error()}
	}
	return engine.Launch{
		Argv: []string{python, "-I", "-u", script}, Env: workerEnv(o.Environ, e.Env, append(secrets, pathWith(python, o.Environ))),
		Model: e.Model, ServedNames: e.ServedNames, Args: engineArgs(e),
	}, nil
}

// engineArgs are [engine.args] and the settings of [engine] that are vLLM's own.
func engineArgs(e *config.Engine) map[string]any {
	args := maps.Clone(e.Args)
	if args == nil {
		args = map[string]any{}
	}
	if e.Revision != "" {
		args["revision"] = e.Revision
	}
	if e.MaxModelLen > 0 {
		args["max_model_len"] = e.MaxModelLen
	}
	if e.GPUMemoryUtilization > 0 {
		args["gpu_memory_utilization"] = e.GPUMemoryUtilization
	}
	return args
}

func hubEnv(e *config.Engine) ([]string, error) {
	var env []string
	if e.HFHome != "" {
		env = append(env, "HF_HOME="+e.HFHome)
	}
	if e.HFTokenFile != "" {
		token, err := os.ReadFile(e.HFTokenFile)
		if err != nil {
			return nil, fmt.Errorf("read engine.hf_token_file: %w", err)
		}
		env = append(env, "HF_TOKEN="+strings.TrimSpace(string(token)))
	}
	return env, nil
}

// workerEnv is the daemon's environment without what would lead a Python astray or is stoker's own, then the additions,
// then [engine.env], which wins.
func workerEnv(environ []string, configured map[string]string, additions []string) []string {
	var env []string
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		if name == "PYTHONHOME" || name == "PYTHONPATH" || name == "NOTIFY_SOCKET" || strings.HasPrefix(name, "STOKER_") {
			continue
		}
		env = append(env, v)
	}
	env = append(env, "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
	env = append(env, additions...)
	for _, name := range slices.Sorted(maps.Keys(configured)) {
		env = append(env, name+"="+configured[name])
	}
	return env
}

// pathWith puts the interpreter's folder first, where an environment keeps ninja and the like.
func pathWith(python string, environ []string) string {
	dir := filepath.Dir(python)
	if path, ok := environment.Lookup(environ, "PATH"); ok {
		return "PATH=" + dir + string(os.PathListSeparator) + path
	}
	return "PATH=" + dir
}
