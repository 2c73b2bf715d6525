// Package bench puts stoker beside what a user would run instead: the same requests, on the same machine, one way after
// another. Each way's process is started, warmed up, and timed over several rounds; only one has an engine at a time.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"stoker/engine"
)

// Options are what a benchmark needs.
type Options struct {
	Scenarios []Scenario
	Ways      []string // only these of the scenarios' own; what no scenario has is added to all
	Rounds    int      // timed, of each way after each load
	Passes    int      // over all ways; every second one in the opposite order
	WarmUp    int      // mean tokens of the answers that warm an engine up; 0: none
	Part      Part     // of each scenario's files

	Echo       bool                              // the echo engine, which only some ways know
	Binary     string                            // stoker
	Daemon     func(root string) *exec.Cmd       // a stoker with the configuration in effect, to be given its command
	Socket     func(root string) (string, error) // where that daemon listens
	Launch     engine.Launch                     // how Python runs a driver, and the model with its arguments
	Worker     string                            // folder of stoker's worker
	Settings   map[string]any                    // engine arguments of this run alone
	Replicas   int                               // of stoker's engine; 0: as configured
	Concurrent int                               // requests in flight at a server
	Against    Against

	Dir string // for loads, logs and roots
	Say func(format string, args ...any)
}

// Against is a server that somebody else runs.
type Against struct{ URL, Model, Key string }

// Part is some of a load's files: the Nth of Of equal parts. The zero Part is all of them.
type Part struct {
	N  int `json:"n"`
	Of int `json:"of"`
}

// ParsePart reads "1/2".
func ParsePart(text string) (p Part, err error) {
	n, of, ok := strings.Cut(text, "/")
	p.N, err = strconv.Atoi(n)
	if err == nil {
		p.Of, err = strconv.Atoi(of)
	}
	if !ok || err != nil || p.N < 1 || p.N > p.Of {
		return Part{}, fmt.Errorf("%q is no part such as 1/2", text)
	}
	return p, nil
}

func (p Part) String() string { return fmt.Sprintf("%d/%d", p.N, p.Of) }

// take returns a part of files.
func take[T any](files []T, p Part) []T {
	if p.Of == 0 {
		return files
	}
	return files[len(files)*(p.N-1)/p.Of : len(files)*p.N/p.Of]
}

// runner runs a benchmark.
type runner struct {
	Options
	loads  map[string]load
	series map[seriesKey]*Series
	order  []seriesKey
	lives  int             // of processes, which each get a folder
	broken map[string]bool // hosts that failed

	makeHost func(name, folder string) (host, error)
}

func newRunner(o Options) *runner {
	return &runner{Options: o, loads: map[string]load{}, series: map[seriesKey]*Series{}, broken: map[string]bool{}}
}

// load is a scenario's files.
type load struct {
	files, warm []string
	requests    int64
	tokens      int64
}

// Run measures. What was measured before an error is in the series, too.
func Run(ctx context.Context, o Options) ([]*Series, error) {
	r := newRunner(o)
	r.makeHost = r.newHost
	return r.all(ctx)
}

// all runs all passes.
func (r *runner) all(ctx context.Context) ([]*Series, error) {
	if err := r.prepare(); err != nil {
		return nil, err
	}
	var errs []error
	for pass := 0; pass < r.Passes && ctx.Err() == nil; pass++ {
		errs = append(errs, r.pass(ctx, pass%2 == 1)...)
	}
	var all []*Series
	for _, key := range r.order {
		all = append(all, r.series[key])
	}
	if ctx.Err() != nil {
		return all, ctx.Err()
	}
	return all, errors.Join(errs...)
}

// prepare checks what is asked for and writes the loads.
func (r *runner) prepare() error {
	r.Scenarios = slices.Clone(r.Scenarios)
	for i := range r.Scenarios {
		r.Scenarios[i].own = r.Scenarios[i].Ways
	}
	for i := range r.Scenarios {
		s := &r.Scenarios[i]
		if err := s.Load.check(); err != nil {
			return fmt.Errorf("scenario %s: %w", s.Name, err)
		}
		s.Ways = r.chosen(s)
		for _, name := range s.Ways {
			if err := r.checkWay(name); err != nil {
				return err
			}
			key := seriesKey{s.Name, name, settingsText(r.Settings)}
			r.order = append(r.order, key)
			r.series[key] = &Series{Scenario: *s, Way: name, Settings: r.Settings, Part: r.Part}
			if ways[name].overHTTP {
				r.series[key].InFlight = r.Concurrent
			}
			if name == "stoker" || name == "stoker-settling" {
				r.series[key].Replicas = r.Replicas
			}
		}
		l, err := r.writeLoad(s)
		if err != nil {
			return err
		}
		r.loads[s.Name] = l
		for _, key := range r.order {
			if key.scenario == s.Name {
				r.series[key].Requests, r.series[key].Tokens = l.requests, l.tokens
			}
		}
	}
	return nil
}

// chosen are a scenario's ways that are asked for.
func (r *runner) chosen(s *Scenario) []string {
	if len(r.Ways) == 0 {
		return s.Ways
	}
	return slices.DeleteFunc(slices.Clone(r.Ways), func(way string) bool {
		has := func(s Scenario) bool { return slices.Contains(s.own, way) }
		return !has(*s) && slices.ContainsFunc(r.Scenarios, has)
	})
}

func (r *runner) checkWay(name string) error {
	w, known := ways[name]
	switch {
	case !known:
		return fmt.Errorf("there is no way %q; --help lists them", name)
	case r.Echo && !w.echo, !r.Echo && !w.vllm:
		return fmt.Errorf("the configured engine has no way %s", name)
	case w.host == "against" && r.Against.URL == "":
		return errors.New("the way server needs --against URL")
	}
	return nil
}

func (r *runner) writeLoad(s *Scenario) (load, error) {
	dir := filepath.Join(r.Dir, "load", s.Name)
	files := take(s.Load.files(), r.Part)
	if len(files) == 0 {
		return load{}, fmt.Errorf("scenario %s: part %s of %d files is empty", s.Name, r.Part, s.Load.Files)
	}
	var l load
	if !r.Echo {
		l.tokens = tokens(files)
	}
	for _, requests := range files {
		l.requests += int64(len(requests))
	}
	var err error
	// Each way reads a request's model as its own: run-batch insists on a name, and any is served.
	if l.files, err = write(files, dir, r.Launch.Model); err != nil || r.WarmUp == 0 {
		return l, err
	}
	l.warm, err = write(take(s.Load.short(r.WarmUp).files(), r.Part), filepath.Join(dir, "warm-up"), r.Launch.Model)
	return l, err
}

// pass has each way run all its scenarios, hosts one after another. What fails costs itself, and is not tried again.
func (r *runner) pass(ctx context.Context, reversed bool) (errs []error) {
	keys := slices.DeleteFunc(slices.Clone(r.order), func(k seriesKey) bool { return !r.series[k].Scenario.Starts })
	hosts := r.hosts()
	if reversed {
		slices.Reverse(hosts)
		slices.Reverse(keys)
	}
	note := func(host string, err error) {
		if err != nil {
			r.broken[host] = true
			errs = append(errs, err)
		}
	}
	for _, name := range hosts {
		if !r.broken[name] && ctx.Err() == nil {
			note(name, r.life(ctx, name, reversed))
		}
	}
	for _, key := range keys {
		if name := ways[key.way].host; !r.broken[name] && ctx.Err() == nil {
			note(name, r.starts(ctx, key))
		}
	}
	return errs
}

// hosts lists the hosts of all ways whose starts do not count, in the order of the ways.
func (r *runner) hosts() (names []string) {
	for _, key := range r.order {
		if name := ways[key.way].host; !r.series[key].Scenario.Starts && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// life is one life of a host: every way that it has, over every scenario.
func (r *runner) life(ctx context.Context, name string, reversed bool) (err error) {
	h, stop, loaded, err := r.begin(ctx, name)
	defer stop()
	if err != nil {
		return err
	}
	for _, s := range r.Scenarios {
		mine := slices.DeleteFunc(slices.Clone(s.Ways), func(way string) bool { return s.Starts || ways[way].host != name })
		if len(mine) == 0 {
			continue
		}
		if err := r.warmUp(ctx, h, mine[0], s.Name); err != nil {
			return err
		}
		for round := range r.Rounds {
			order := slices.Clone(mine)
			if reversed != (round%2 == 1) {
				slices.Reverse(order)
			}
			for _, way := range order {
				if err := r.round(ctx, h, loaded, seriesKey{s.Name, way, settingsText(r.Settings)}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// begin starts a host. stop must be called, whatever the error.
func (r *runner) begin(ctx context.Context, name string) (h host, stop func(), loaded Loaded, err error) {
	r.lives++
	folder := filepath.Join(r.Dir, fmt.Sprintf("%02d-%s", r.lives, name))
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, func() {}, loaded, err
	}
	h, err = r.makeHost(name, folder)
	if err != nil {
		return nil, func() {}, loaded, err
	}
	r.Say("%s: starting", name)
	if loaded, err = h.start(ctx); err != nil {
		return h, h.stop, loaded, fmt.Errorf("%s: %w", name, err)
	}
	r.Say("%s: ready after %.1f s", name, loaded.Seconds)
	return h, h.stop, loaded, nil
}

func (r *runner) warmUp(ctx context.Context, h host, way, scenario string) error {
	warm := r.loads[scenario].warm
	if len(warm) == 0 {
		return nil
	}
	s, err := h.run(ctx, way, warm)
	if err != nil {
		return fmt.Errorf("%s: warm up: %w", way, err)
	}
	r.Say("%s: warmed up in %.1f s", way, s.Seconds)
	return nil
}

func (r *runner) round(ctx context.Context, h host, loaded Loaded, key seriesKey) error {
	sample, err := h.run(ctx, key.way, r.loads[key.scenario].files)
	if err != nil {
		return fmt.Errorf("%s: %w", key.way, err)
	}
	return r.record(key, loaded, sample)
}

// record keeps a round. One with requests that failed is no measurement.
func (r *runner) record(key seriesKey, loaded Loaded, sample Sample) error {
	series := r.series[key]
	if sample.Failed > 0 || sample.Requests != series.Requests {
		return fmt.Errorf("%s: %d of %d requests were answered", key.way, sample.Requests-sample.Failed, series.Requests)
	}
	if r.Echo {
		sample.Tokens = 0 // words, of which an echo has no more than the prompt
	}
	if !slices.Contains(series.Loads, loaded) {
		series.Loads = append(series.Loads, loaded)
	}
	series.Rounds = append(series.Rounds, sample)
	r.Say("%s, %s: %.2f s, %.0f %s", key.scenario, key.way, sample.Seconds, sample.rate(), sample.unit())
	return nil
}

// starts times rounds whose starts count: one for all files, or one for each.
func (r *runner) starts(ctx context.Context, key seriesKey) error {
	files := r.loads[key.scenario].files
	calls := [][]string{files}
	if ways[key.way].perFile {
		calls = slices.Collect(slices.Chunk(files, 1))
	}
	if r.WarmUp > 0 { // what a first start leaves in caches, of files and of compiled code, is there for all
		_, stop, _, err := r.begin(ctx, ways[key.way].host)
		stop()
		if err != nil {
			return err
		}
	}
	for range r.Rounds {
		sample, loaded, err := r.startedRound(ctx, key, calls)
		if err != nil {
			return err
		}
		if err := r.record(key, loaded, sample); err != nil {
			return err
		}
	}
	return nil
}

// startedRound ends with the last answer; what the last process does after it is not waited for by anybody.
func (r *runner) startedRound(ctx context.Context, key seriesKey, calls [][]string) (total Sample, last Loaded, err error) {
	stop := func() {}
	defer func() { stop() }()
	began := time.Now()
	for _, files := range calls {
		stop() // a GPU holds one engine
		var h host
		if h, stop, last, err = r.begin(ctx, ways[key.way].host); err != nil {
			return total, last, err
		}
		s, err := h.run(ctx, key.way, files)
		if err != nil {
			return total, last, fmt.Errorf("%s: %w", key.way, err)
		}
		total.Requests += s.Requests
		total.Failed += s.Failed
		total.Tokens += s.Tokens
		total.Starts = append(total.Starts, last.Seconds)
		total.Seconds = time.Since(began).Seconds()
	}
	return total, last, nil
}

// newHost makes a host, with a folder of its own.
func (r *runner) newHost(name, folder string) (host, error) {
	args := maps.Clone(r.Launch.Args)
	if args == nil {
		args = map[string]any{}
	}
	maps.Copy(args, r.Settings)
	d := driver{
		job: job{Host: name, Model: r.Launch.Model, Args: args}, folder: folder,
		worker: r.Worker, launch: r.Launch,
	}
	switch name {
	case "stoker", "stoker-settling":
		return r.newDaemon(folder, name == "stoker")
	case "echo":
		return &echoLoop{binary: r.Binary, folder: folder, args: args}, nil
	case "against":
		return &server{url: baseURL(r.Against.URL), model: r.Against.Model, key: r.Against.Key, concurrent: r.Concurrent}, nil
	case "server":
		return &vllmServe{driver: d, server: server{concurrent: r.Concurrent}}, nil
	}
	return &d, nil
}

// newDaemon makes a stoker with a root below a folder. Complete files are renamed into its inbox and need not settle, as
// with `stoker once`.
func (r *runner) newDaemon(folder string, byRename bool) (host, error) {
	root := filepath.Join(folder, "root")
	socket, err := r.Socket(root)
	if err != nil {
		return nil, err
	}
	env, err := settingsEnv(r.Settings)
	if err != nil {
		return nil, err
	}
	if r.Replicas > 0 {
		env = append(env, fmt.Sprintf("STOKER_ENGINE__REPLICAS=%d", r.Replicas))
	}
	env = append(env, "STOKER_RUN__DRAIN=1s") // what is in flight when it is stopped is nobody's
	if byRename {
		env = append(env, "STOKER_INBOX__READY=rename")
	}
	command := func(args ...string) *exec.Cmd {
		cmd := r.Daemon(root)
		cmd.Args = append(cmd.Args, args...)
		cmd.Env = append(cmd.Env, env...)
		return cmd
	}
	return &daemon{command: command, socket: socket, root: root, log: filepath.Join(folder, "log")}, nil
}

// settingsEnv gives a daemon engine arguments by its environment, where values are TOML: JSON, but for tables.
func settingsEnv(settings map[string]any) (env []string, err error) {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value, err := json.Marshal(settings[name], json.Deterministic(true))
		if err != nil {
			return nil, fmt.Errorf("engine argument %s: %w", name, err)
		}
		env = append(env, "STOKER_ENGINE__ARGS__"+strings.ToUpper(name)+"="+string(value))
	}
	return env, nil
}

// settingsText names settings in tables: "max_num_seqs = 512".
func settingsText(settings map[string]any) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value, err := json.Marshal(settings[name], json.Deterministic(true))
		parts = append(parts, name+" = "+cmp.Or(string(value), fmt.Sprint(err)))
	}
	return strings.Join(parts, ", ")
}
