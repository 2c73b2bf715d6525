package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// writeFile makes a file below dir and returns its path.
func writeFile(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustLoad(t *testing.T, o Options) *Loaded {
	t.Helper()
	loaded, err := Load(o)
	if err != nil {
		t.Fatal(err)
	}
	return loaded
}

func TestNoFileGivesTheDefaults(t *testing.T) {
	loaded, err := load("", nil, Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), loaded.Config); diff != "" {
		t.Errorf("differs from Default (-want +got):\n%s", diff)
	}
}

func TestSearchOrder(t *testing.T) {
	dir := t.TempDir()
	revision := func(s string) string { return "[engine]\nrevision = \"" + s + "\"\n" }
	flag := writeFile(t, dir, "flag.toml", revision("flag"))
	variable := writeFile(t, dir, "variable.toml", revision("variable"))
	root := filepath.Dir(writeFile(t, dir, "root/config.toml", revision("root")))
	xdg := filepath.Dir(filepath.Dir(writeFile(t, dir, "xdg/stoker/config.toml", revision("xdg"))))
	home := filepath.Join(dir, "home")
	writeFile(t, home, ".config/stoker/config.toml", revision("home"))

	all := []string{"STOKER_CONFIG=" + variable, "XDG_CONFIG_HOME=" + xdg, "HOME=" + home}
	for want, o := range map[string]Options{
		"flag":     {Path: flag, Root: root, Environ: all},
		"variable": {Root: root, Environ: all},
		"root":     {Root: root, Environ: all[1:]},
		"xdg":      {Root: dir, Environ: all[1:]},
		"home":     {Environ: append([]string{"STOKER_CONFIG=", "XDG_CONFIG_HOME=relative"}, all[2:]...)},
	} {
		if got := mustLoad(t, o).Engine.Revision; got != want {
			t.Errorf("read the file %q, want %q", got, want)
		}
	}
}

func TestNamedFileMustBeReadable(t *testing.T) {
	dir := t.TempDir()
	missing := filepath.Join(dir, "missing.toml")
	for _, o := range []Options{
		{Path: missing},
		{Path: dir},
		{Environ: []string{"STOKER_CONFIG=" + missing}},
	} {
		_, err := Load(o)
		e, ok := errors.AsType[*Error](err)
		if !ok || !errors.Is(err, ErrInvalid) || e.File == "" || e.Hint == "" {
			t.Errorf("Load(%+v): %v, want an error with file and hint", o, err)
		}
	}
}

func TestLayers(t *testing.T) {
	file := writeFile(t, t.TempDir(), "config.toml", `
[engine]
kind = "echo"
revision = "file"
in_flight = 1
served_names = ["a"]
args = { delay = "1s", fail_every = 3 }
[engine.env]
A = "file"
B = "file"
[defaults]
temperature = 0.5
chat_template_kwargs = { thinking = true, depth = 2 }
[queue.Bulk.defaults]
temperature = 1
`)
	loaded := mustLoad(t, Options{
		Path: file,
		Environ: []string{
			"STOKER_ENGINE__REVISION=environment",
			"STOKER_ENGINE__IN_FLIGHT=2",
			"STOKER_ENGINE__SERVED_NAMES=['b', 'c']",
			"STOKER_ENGINE__ARGS__DELAY=50ms",
			"STOKER_ENGINE__ENV__B=1",
			"STOKER_OUTBOX__MODE=0640",
			"STOKER_OUTBOX__GROUP=1000",
			"STOKER_DEFAULTS__SYSTEM=Be brief.",
			"STOKER_DEFAULTS__STOP=2026-01-01",
			"STOKER_DEFAULTS__CHAT_TEMPLATE_KWARGS__DEPTH=3",
			"STOKER_QUEUE__BULK__DEFAULTS__TOP_P=0.5",
			"STOKER_QUEUE__OTHER__DEFAULTS__N=2",
			"STOKER_CONFIG=/nonexistent",
			"STOKER_SOMETHING=else",
			"MALFORMED",
		},
		Overrides: map[string]string{"engine.in_flight": "3", "engine.model": "google/gemma-3-4b-it"},
	})
	want := Default()
	want.Outbox.Mode, want.Outbox.Group = 0o640, "1000"
	want.Engine.Kind = KindEcho
	want.Engine.Model = "google/gemma-3-4b-it"
	want.Engine.Revision = "environment"
	want.Engine.InFlight = 3
	want.Engine.ServedNames = []string{"b", "c"}
	want.Engine.Args = map[string]any{"delay": "50ms", "fail_every": int64(3)}
	want.Engine.Env = map[string]string{"A": "file", "B": "1"}
	want.Defaults = map[string]any{
		"temperature": 0.5, "system": "Be brief.", "stop": "2026-01-01",
		"chat_template_kwargs": map[string]any{"thinking": true, "depth": int64(3)},
	}
	want.Queue = map[string]Queue{
		"Bulk":  {Defaults: map[string]any{"temperature": int64(1), "top_p": 0.5}},
		"other": {Defaults: map[string]any{"n": int64(2)}},
	}
	if diff := cmp.Diff(want, loaded.Config); diff != "" {
		t.Errorf("configuration differs (-want +got):\n%s", diff)
	}
	for key, want := range map[string]string{
		"engine.kind":        file + ":3",
		"engine.args.delay":  "environment STOKER_ENGINE__ARGS__DELAY",
		"engine.in_flight":   "flag engine.in_flight",
		"engine.hang":        "default",
		"engine.env.A":       file + ":9",
		"outbox.notes":       "default",
		"defaults.stop":      "environment STOKER_DEFAULTS__STOP",
		"queue.other":        "environment STOKER_QUEUE__OTHER__DEFAULTS__N",
		"engine.no_such_key": "default",
	} {
		if got := loaded.Origin(key).String(); got != want {
			t.Errorf("%s is from %q, want %q", key, got, want)
		}
	}
}

func TestOverrideErrors(t *testing.T) {
	for entry, want := range map[string][]string{
		"STOKER_ENGINE__KIND=vlm": {
			`environment STOKER_ENGINE__KIND: want one of vllm, echo, got "vlm"`, "hint: did you mean `vllm`?",
		},
		"STOKER_ENGIN__MODEL=x": {
			"environment STOKER_ENGIN__MODEL: names no setting", "hint: did you mean `STOKER_ENGINE__MODEL`?",
		},
		"STOKER_ENGINE__MODEL__X=x": {
			"environment STOKER_ENGINE__MODEL__X: names no setting", "hint: did you mean `STOKER_ENGINE__MODEL`?",
		},
		"STOKER_ENGINE__ARGS=x":       {"environment STOKER_ENGINE__ARGS: want a table, got a string"},
		"STOKER_ENGINE__IN_FLIGHT=-1": {"environment STOKER_ENGINE__IN_FLIGHT: want 0 or more, got -1"},
		"STOKER_ENGINE__IN_FLIGHT=1\nx = 2": {
			"environment STOKER_ENGINE__IN_FLIGHT: want an integer, got a string",
		},
		"STOKER_RUN__DRAIN=60": {
			`environment STOKER_RUN__DRAIN: want a duration with a unit, like "2s", "1h30m" or "30d", got "60"`,
		},
		"STOKER_ENGINE__REVISION=\xff": {"environment STOKER_ENGINE__REVISION: want UTF-8"},
		"STOKER_PATHS__INBOX=~/inbox":  {"environment STOKER_PATHS__INBOX: ~ stands for nothing: $HOME is not set", "hint: write the whole path"},
		"STOKER_SOME__THING=x":         {"environment STOKER_SOME__THING: names no setting"},
	} {
		_, err := load("", nil, Options{}, parseEnviron([]string{entry}))
		if diff := cmp.Diff(want, told(err)); diff != "" {
			t.Errorf("%s: errors differ (-want +got):\n%s", entry, diff)
		}
	}
	_, err := load("", nil, Options{Overrides: map[string]string{"engine.modle": "x"}}, nil)
	if want := "flag engine.modle: names no setting"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestErrorsKeepSecrets(t *testing.T) {
	const secret = "hf_secret"
	_, err := load("config.toml", []byte(`
[engine]
kind = "vlm"
[engine.env]
"A=B" = "`+secret+`"
C = ["`+secret+`"]
`), Options{}, parseEnviron([]string{"STOKER_ENGINE__ENV__D=" + secret + "\x00"}))
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("the error is missing or tells the secret: %v", err)
	}
	if got := len(All(err)); got != 4 {
		t.Errorf("%d errors, want 4: %v", got, err)
	}
}

func TestErrorsInTheOrderOfTheFile(t *testing.T) {
	_, err := load("config.toml", []byte("[log]\nlevel = \"loud\"\n[inbox]\npoll = \"0s\"\nx = 1\n"), Options{},
		parseEnviron([]string{"STOKER_A__B=1"}))
	want := "config.toml:2:1: log.level: want one of debug, info, warn, error, got \"loud\"\n" +
		"config.toml:4:1: inbox.poll: want a duration over 0s, got \"0s\"\n" +
		"config.toml:5:1: inbox.x: unknown key\n" +
		"environment STOKER_A__B: names no setting"
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestCheckRunnable(t *testing.T) {
	c := Default()
	if err := c.CheckRunnable(); !errors.Is(err, ErrInvalid) {
		t.Errorf("vllm without a model: %v, want an error", err)
	}
	c.Engine.Model = "google/gemma-3-4b-it"
	if err := c.CheckRunnable(); err != nil {
		t.Error(err)
	}
	c.Engine.Kind, c.Engine.Model = KindEcho, ""
	if err := c.CheckRunnable(); err != nil {
		t.Error(err)
	}
}

func TestEffectiveDefaults(t *testing.T) {
	c := Default()
	c.Defaults = map[string]any{"temperature": 0.7, "max_tokens": int64(2000)}
	c.Queue = map[string]Queue{"bulk": {Defaults: map[string]any{"temperature": int64(0)}}}
	for queue, want := range map[string]map[string]any{
		"":     {"temperature": 0.7, "max_tokens": int64(2000)},
		"bulk": {"temperature": int64(0), "max_tokens": int64(2000)},
	} {
		if diff := cmp.Diff(want, c.EffectiveDefaults(queue)); diff != "" {
			t.Errorf("defaults of queue %q differ (-want +got):\n%s", queue, diff)
		}
	}
	c.EffectiveDefaults("bulk")["temperature"] = 1.0
	if diff := cmp.Diff(0.7, c.Defaults["temperature"]); diff != "" {
		t.Error("a change of the effective defaults changed the configuration")
	}
}

// FuzzLoad holds that no document, and no value of a variable, makes Load panic, that every error says where it is, and
// that what is accepted can be shown.
func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/invalid/*.toml")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range append(files, exampleFile) {
		document, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(document, "STOKER_DEFAULTS", "1")
	}
	f.Add([]byte("engine.args.'a b' = [{ x = 1 }]\nqueue.q.defaults = {}"), "STOKER_ENGINE__ARGS__X", "{ a = '''b''' }")
	f.Add([]byte("[[engine]]\n[engine.args]\n"), "STOKER_ENGINE", "[]")
	f.Add([]byte("engine = 1\n\"\" = 2\nqueue.'a.b' = {defaults = {stream = 1}}"), "STOKER_QUEUE__A__DEFAULTS__MODEL", "x")
	f.Add([]byte(""), "STOKER_INBOX__SETTLE", "\"-1s\"")
	f.Add([]byte("paths.state = '/x'\npaths.inbox = '/x'"), "STOKER__", "")
	f.Fuzz(func(t *testing.T, document []byte, name, value string) {
		environ := map[string]string{name: value, "HOME": "/h"}
		loaded, err := load("/c/config.toml", document, Options{}, environ)
		if err != nil {
			checkErrors(t, err, name)
			return
		}
		var shown strings.Builder
		if err := errors.Join(loaded.WriteTOML(&shown), loaded.WriteJSON(&strings.Builder{})); err != nil {
			t.Fatal(err)
		}
		again, err := load("/c/config.toml", []byte(shown.String()), Options{}, map[string]string{"HOME": "/h"})
		if err != nil {
			t.Fatalf("what was shown does not load: %v\n%s", err, shown.String())
		}
		ignore := cmpopts.IgnoreFields(Config{}, "Engine.Env", "Engine.Args", "API", "Queue")
		if diff := cmp.Diff(loaded.Config, again.Config, ignore, cmpopts.EquateEmpty(), cmpopts.EquateNaNs()); diff != "" {
			t.Fatalf("what was shown loads differently (-want +got):\n%s", diff)
		}
	})
}

// checkErrors holds that each error is one of the configuration, and says where it is.
func checkErrors(t *testing.T, err error, variable string) {
	t.Helper()
	if !errors.Is(err, ErrInvalid) || len(All(err)) == 0 {
		t.Fatalf("not an error of the configuration: %v", err)
	}
	for _, e := range All(err) {
		inFile := e.File != "" && e.Line > 0 && e.Column > 0
		inEnvironment := e.File == "" && strings.Contains(e.Source, variable)
		unset := e.File == "" && e.Source == "" && e.Key != "" // a default that does not do, or goes not with what is set
		if e.Message == "" || !inFile && !inEnvironment && !unset {
			t.Fatalf("%+v does not say where it is", e)
		}
	}
}

func TestSalvageKeepsWhatIsRight(t *testing.T) {
	for document, want := range map[string]Config{
		"[api]\nsocket = \"/a.sock\"\n[inbox]\nready = \"never\"\nmax_line = \"1KiB\"\n":                {API: API{Socket: "/a.sock"}, Inbox: Inbox{Ready: ReadySettle, MaxLine: 1024}},
		"[engine\nmodel = \"x\n[api]\nsocket = \"/a.sock\"\n[api]\n[inbox]\nready = \"rename\"\n":       {API: API{Socket: "/a.sock"}, Inbox: Inbox{Ready: ReadyRename, MaxLine: 16 << 20}},
		"[inbox]\nready = \"rename\"\n[api]\nsocket = '''/a.sock\n":                                     {Inbox: Inbox{Ready: ReadyRename, MaxLine: 16 << 20}},
		"\x00\n[api]\nsocket = \"/a.sock\"\nsocket = \"/b.sock\"\n[paths]\nstate = \"/b\"\ninbox = 3\n": {API: API{Socket: "/a.sock"}, Inbox: Inbox{Ready: ReadySettle, MaxLine: 16 << 20}},
	} {
		l, err := load("/etc/stoker/config.toml", []byte(document), Options{}, nil)
		if l == nil || !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %v, %v", document, l, err)
			continue
		}
		got := Config{API: l.API, Inbox: Inbox{Ready: l.Inbox.Ready, MaxLine: l.Inbox.MaxLine}}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", document, diff)
		}
		if l.Paths.Inbox != Default().Paths.Inbox {
			t.Errorf("%q: inbox %s", document, l.Paths.Inbox)
		}
	}
}

func TestSalvageKnowsAFileThatCannotBeRead(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.toml")
	l, err := Salvage(Options{Path: missing, Environ: []string{"STOKER_API__SOCKET=/a.sock"}})
	if !errors.Is(err, ErrInvalid) || l == nil || l.File != missing || l.API.Socket != "/a.sock" {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestHiddenFileIsKnown(t *testing.T) {
	dir := t.TempDir()
	home := filepath.Join(dir, "home")
	environ := []string{"HOME=" + home}
	want := writeFile(t, home, ".config/stoker/config.toml", "")
	root := filepath.Dir(writeFile(t, dir, "root/config.toml", ""))
	for got, o := range map[string]Options{
		want: {Root: root, Environ: environ},
		"":   {Root: root, Path: want, Environ: environ},
	} {
		if l := mustLoad(t, o); l.Hides != got {
			t.Errorf("%s hides %q, want %q", l.File, l.Hides, got)
		}
	}
}
