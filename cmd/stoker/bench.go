package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"stoker/bench"
	"stoker/daemon"
	"stoker/daemon/config"
	"stoker/engine/pyenv"
	"stoker/engine/worker"
	"stoker/store/durable"
)

type benchFlags struct {
	scenarios, ways      []string
	load                 bench.Load
	rounds, passes, warm int
	part, dir, output    string
	set, try             []string
	stacks               string
	tune, asJSON         bool
	inFlight             int
	replicas             int
	against              bench.Against
}

func newBenchCommand(a *app) *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure stoker beside what you would run instead",
		Long: `Bench makes a load and runs it through stoker, and through what you would run instead, with the engine, the model and the
Python environment of the configuration. Each way's process is started, warmed up and timed over several rounds; in every
second pass the ways take turns the other way round. All ways make answers of the same lengths. With --tune it sweeps over
the engine arguments that matter and prints the lines for [engine.args].

Stop other work on the GPU first, a stoker too: only one engine fits.

Ways:
  ` + strings.Join(bench.Ways(), "\n  "),
		Example: `  stoker bench                                       # what fits the configured engine
  stoker bench --scenario one-file,files -o gpu.json # a GPU; run again, and the rounds are added
  stoker bench --way stoker,server --against http://localhost:11434 --against-model llama3.2
  stoker bench --tune`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.bench(cmd, &f) },
	}
	names := slices.Sorted(maps.Keys(bench.Scenarios()))
	flags := cmd.Flags()
	flags.StringSliceVar(&f.scenarios, "scenario", nil, "ready-made loads: "+strings.Join(names, ", ")+" (default: what fits the engine)")
	flags.StringSliceVar(&f.ways, "way", nil, "only these of the scenarios' ways; one that none of them has is added to all")
	flags.IntVar(&f.load.Requests, "requests", 0, "requests, of all files together, instead of the scenario's")
	flags.IntVar(&f.load.Files, "files", 0, "files, instead of the scenario's")
	flags.IntVar(&f.load.MeanTokens, "mean", 0, "tokens of an answer in the mean, instead of the scenario's")
	flags.IntVar(&f.load.MaxTokens, "max", 0, "the most tokens of an answer, instead of the scenario's")
	flags.IntVar(&f.load.PromptWords, "prompt-words", 0, "words of a prompt, instead of the scenario's")
	flags.Uint64Var(&f.load.Seed, "seed", 0, "seed of the load, instead of the scenario's")
	flags.StringVar(&f.part, "part", "", "run only a part of the files, such as 1/2")
	flags.IntVar(&f.rounds, "rounds", 3, "timed rounds of each way, each time that it is loaded")
	flags.IntVar(&f.passes, "passes", 2, "how often each way is loaded")
	flags.IntVar(&f.warm, "warm-up", 64, "tokens of the answers that warm up, in the mean; 0: no warm-up")
	flags.StringVar(&f.dir, "dir", "", "folder for loads, logs and stoker's state, kept (default: a temporary one)")
	flags.StringVarP(&f.output, "output", "o", "", "also write JSON to this file; what a former run of the same wrote there is added to")
	flags.StringArrayVar(&f.set, "set", nil, "an engine argument of this run, NAME=VALUE, told apart in the table")
	flags.IntVar(&f.replicas, "replicas", 0, "replicas of stoker's engine, told apart in the table (default: as configured); with --tune: as many beside one (default with one GPU: 2)")
	flags.StringVar(&f.stacks, "stacks", "", "sample the stacks of the Python processes and write them to this folder")
	flags.IntVar(&f.inFlight, "in-flight", 1280, "requests in flight at a server")
	flags.StringVar(&f.against.URL, "against", "", "an OpenAI-compatible server to compare with")
	flags.StringVar(&f.against.Model, "against-model", "", "the model to ask that server for")
	flags.BoolVar(&f.tune, "tune", false, "sweep over engine arguments")
	flags.StringArrayVar(&f.try, "try", nil, "with --tune: an argument and its values, NAME=A,B,C, instead of the usual ones")
	flags.BoolVar(&f.asJSON, "json", false, "write one JSON object")
	return cmd
}

func (a *app) bench(cmd *cobra.Command, f *benchFlags) error {
	loaded, err := a.loadConfig(nil)
	if err != nil {
		return err
	}
	if err := loaded.CheckRunnable(); err != nil {
		return err
	}
	dir, done, err := benchDir(f.dir)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	report := &bench.Report{
		SchemaVersion: bench.SchemaVersion, At: time.Now().Truncate(time.Second), Version: version(), Machine: bench.LookAtMachine(ctx),
		Engine: bench.Engine{Kind: string(loaded.Engine.Kind), Model: loaded.Engine.Model},
	}
	o, err := a.benchOptions(ctx, loaded, f, dir, report)
	if err != nil {
		done(err)
		return err
	}
	if f.tune {
		err = a.benchTune(ctx, *o, f, report)
	} else {
		err = a.benchCompare(ctx, *o, f, report)
	}
	done(err)
	return err
}

// benchDir makes the folder, which must be empty: results of a former run would be taken for this one's. A temporary one is
// removed if nothing went wrong.
func benchDir(dir string) (path string, done func(error), err error) {
	if dir != "" {
		path, err = filepath.Abs(dir)
		if err == nil {
			err = os.MkdirAll(path, 0o755)
		}
		if left, _ := os.ReadDir(path); len(left) > 0 {
			err = &usageError{fmt.Errorf("--dir: %s is not empty", path)}
		}
		return path, func(error) {}, err
	}
	path, err = os.MkdirTemp("", "stoker-bench-")
	return path, func(err error) {
		if err == nil || errors.Is(err, context.Canceled) {
			os.RemoveAll(path)
		}
	}, err
}

// benchOptions says how everything is started, as the configuration has it.
func (a *app) benchOptions(ctx context.Context, loaded *config.Loaded, f *benchFlags, dir string, report *bench.Report) (*bench.Options, error) {
	o, err := f.options()
	if err != nil {
		return nil, err
	}
	if o.Binary, err = os.Executable(); err != nil {
		return nil, err
	}
	o.Echo, o.Dir, o.Against.Key = loaded.Engine.Kind == config.KindEcho, dir, a.variable("OPENAI_API_KEY")
	o.Say = func(format string, args ...any) { fmt.Fprintf(a.stderr, "stoker: bench: "+format+"\n", args...) }
	usual, env := "lines", a.environ
	if o.Echo {
		o.Launch.Args = loaded.Engine.Args
	} else {
		python, err := a.benchLaunch(ctx, loaded, f, o)
		if err != nil {
			return nil, err
		}
		report.Engine.Version = python.VLLM
		// With a root of its own the daemon would look for another Python.
		env = append(slices.Clone(env), "STOKER_ENGINE__PYTHON="+python.Path)
		if usual = "small"; python.Device() == pyenv.CUDA {
			usual = "one-file"
		}
	}
	report.Engine.Args = o.Launch.Args
	benchDaemon(o, loaded.File, env)
	o.Scenarios, err = f.chosen(usual)
	return o, err
}

// options are those that flags say.
func (f *benchFlags) options() (*bench.Options, error) {
	if f.rounds < 1 || f.passes < 1 || f.inFlight < 1 || f.warm < 0 || f.replicas < 0 {
		return nil, &usageError{errors.New("--rounds, --passes and --in-flight must be at least 1, --warm-up and --replicas at least 0")}
	}
	o := &bench.Options{
		Ways: f.ways, Rounds: f.rounds, Passes: f.passes, WarmUp: f.warm, Replicas: f.replicas, Concurrent: f.inFlight, Against: f.against,
	}
	var err error
	if f.part != "" {
		if o.Part, err = bench.ParsePart(f.part); err != nil {
			return nil, &usageError{fmt.Errorf("--part: %w", err)}
		}
	}
	o.Settings, err = parseSettings(f.set)
	return o, err
}

// benchDaemon says how a stoker with a root of its own is started, and where it answers.
func benchDaemon(o *bench.Options, file string, env []string) {
	o.Daemon = func(root string) *exec.Cmd {
		cmd := exec.Command(o.Binary, "--root", root)
		if file != "" {
			cmd.Args = append(cmd.Args, "--config", file)
		}
		cmd.Env = slices.Clone(env)
		return cmd
	}
	o.Socket = func(root string) (string, error) {
		l, err := config.Load(config.Options{Path: file, Root: root, Environ: env})
		if err != nil {
			return "", err
		}
		return l.SocketPath(), nil
	}
}

// benchLaunch has the drivers run as the worker would.
func (a *app) benchLaunch(ctx context.Context, loaded *config.Loaded, f *benchFlags, o *bench.Options) (pyenv.Interpreter, error) {
	d := daemon.Options{Config: &loaded.Config, ConfigFile: loaded.File, Root: a.root, Environ: a.environ, Interactive: isTerminal(a.stderr)}
	python, err := daemon.FindPython(ctx, &d)
	if err != nil {
		return python, err
	}
	script, err := worker.Install(filepath.Join(o.Dir, "worker"))
	if err != nil {
		return python, err
	}
	o.Worker = filepath.Dir(script)
	driver, err := bench.InstallDriver(filepath.Join(o.Dir, "driver"))
	if err != nil {
		return python, err
	}
	o.Launch, err = daemon.VLLMLaunch(&d, python.Path, driver)
	if f.stacks == "" || err != nil {
		return python, err
	}
	stacks, err := filepath.Abs(f.stacks)
	if err == nil {
		err = os.MkdirAll(stacks, 0o755)
	}
	o.Launch.Env = append(o.Launch.Env, "STOKER_BENCH_STACKS="+stacks)
	return python, err
}

// chosen are the scenarios, with what flags change in them.
func (f *benchFlags) chosen(usual string) (chosen []bench.Scenario, err error) {
	names := f.scenarios
	if len(names) == 0 {
		names = []string{usual}
	}
	for _, name := range names {
		s, err := bench.FindScenario(name)
		if err != nil {
			return nil, &usageError{err}
		}
		l := &s.Load
		for _, change := range []struct{ to, with *int }{
			{&l.Requests, &f.load.Requests}, {&l.Files, &f.load.Files}, {&l.MeanTokens, &f.load.MeanTokens},
			{&l.MaxTokens, &f.load.MaxTokens}, {&l.PromptWords, &f.load.PromptWords},
		} {
			if *change.with != 0 {
				*change.to = *change.with
			}
		}
		if f.load.Seed != 0 {
			l.Seed = f.load.Seed
		}
		if f.against.URL != "" && !slices.Contains(s.Ways, "server") {
			s.Ways = append(slices.Clone(s.Ways), "server")
		}
		chosen = append(chosen, s)
	}
	return chosen, nil
}

// parseSettings reads NAME=VALUE, with values as in STOKER_ENGINE__ARGS__NAME.
func parseSettings(words []string) (map[string]any, error) {
	environ := make([]string, 0, len(words))
	for _, word := range words {
		name, value, ok := strings.Cut(word, "=")
		if !ok || name == "" {
			return nil, &usageError{fmt.Errorf("--set %s: want NAME=VALUE", word)}
		}
		environ = append(environ, "STOKER_ENGINE__ARGS__"+strings.ToUpper(name)+"="+value)
	}
	l, err := config.Load(config.Options{Path: os.DevNull, Environ: environ})
	if err != nil {
		return nil, err
	}
	return l.Engine.Args, nil
}

// parseTry reads NAME=A,B,C.
func parseTry(words []string) (candidates []bench.Candidate, err error) {
	for _, word := range words {
		name, list, _ := strings.Cut(word, "=")
		c := bench.Candidate{Name: name}
		for _, value := range strings.Split(list, ",") {
			settings, err := parseSettings([]string{name + "=" + value})
			if err != nil {
				return nil, err
			}
			c.Values = append(c.Values, settings[name])
		}
		candidates = append(candidates, c)
	}
	return candidates, nil
}

func (a *app) benchCompare(ctx context.Context, o bench.Options, f *benchFlags, report *bench.Report) error {
	series, err := bench.Run(ctx, o)
	report.Series = series
	if !slices.ContainsFunc(series, func(s *bench.Series) bool { return len(s.Rounds) > 0 }) {
		return err
	}
	if writeErr := a.writeBench(f, report); writeErr != nil {
		return errors.Join(err, writeErr)
	}
	return err
}

// writeBench adds what an earlier run found and writes the report.
func (a *app) writeBench(f *benchFlags, report *bench.Report) error {
	if f.output != "" {
		if err := joinEarlier(f.output, report); err != nil {
			return err
		}
	}
	report.Summarize()
	if f.output != "" {
		if err := writeBenchFile(f.output, report); err != nil {
			return err
		}
	}
	if f.asJSON {
		return report.WriteJSON(a.stdout)
	}
	return report.WriteTable(a.stdout)
}

func joinEarlier(path string, report *bench.Report) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	earlier, err := bench.Read(file)
	if err == nil {
		err = report.Join(earlier)
	}
	if err != nil {
		return &exitError{code: exitFailure, err: fmt.Errorf("%s: %w", path, err), hint: "give another --output"}
	}
	return nil
}

func writeBenchFile(path string, v any) error {
	text, err := json.Marshal(v, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return err
	}
	return durable.WriteFile(durable.Local{}, path, append(text, '\n'), 0o644)
}

func (a *app) benchTune(ctx context.Context, o bench.Options, f *benchFlags, report *bench.Report) error {
	if o.Echo {
		return &usageError{errors.New("--tune needs engine.kind = \"vllm\"")}
	}
	candidates := bench.Candidates(len(report.Machine.GPUs) > 0)
	if len(report.Machine.GPUs) == 1 && len(f.try) == 0 {
		o.Replicas = cmp.Or(o.Replicas, 2)
	}
	if len(f.try) > 0 {
		var err error
		if candidates, err = parseTry(f.try); err != nil {
			return err
		}
	}
	tuning, tuneErr := bench.Tune(ctx, o, candidates)
	if tuning == nil || len(tuning.Trials) == 0 {
		return tuneErr
	}
	found := struct {
		*bench.Report
		Tuning *bench.Tuning `json:"tuning"`
	}{report, tuning}
	if f.output != "" {
		if err := writeBenchFile(f.output, found); err != nil {
			return errors.Join(tuneErr, err)
		}
	}
	if f.asJSON {
		return errors.Join(tuneErr, a.writeJSON(found))
	}
	return errors.Join(tuneErr, tuning.WriteTable(a.stdout))
}
