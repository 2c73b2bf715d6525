package config

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func loadText(t *testing.T, text string) *Config {
	t.Helper()
	l, err := load("/etc/stoker/config.toml", []byte(text), Options{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &l.Config
}

func TestReplace(t *testing.T) {
	before := loadText(t, `
[engine]
model = "a/b"
args = { seed = 1, dtype = "auto" }
env = { A = "1" }
[inbox]
settle = "1s"
[defaults]
temperature = 0.5
max_tokens = 7
[queue.fast.defaults]
temperature = 0.1
`)
	after := loadText(t, `
[paths]
outbox = "/elsewhere"
[run]
drain = "5m"
[engine]
model = "a/c"
args = { seed = 2, dtype = "auto" }
env = { A = "1", B = "2" }
[inbox]
settle = "auto"
require_mount = true
[log]
level = "debug"
format = "json"
[defaults]
temperature = 0.5
[queue.slow.defaults]
temperature = 0.2
`)
	got := before.Replace(after)
	want := Reload{
		Config: *after,
		Changed: []string{
			"run.drain", "inbox.settle", "defaults.max_tokens", "queue.fast.defaults.temperature", "queue.slow.defaults.temperature", "log.level",
		},
		Waiting: []string{"paths.outbox", "inbox.require_mount", "engine.model", "engine.args.seed", "engine.env.B", "log.format"},
	}
	want.Config.Paths, want.Config.Engine, want.Config.API = before.Paths, before.Engine, before.API
	want.Config.Inbox.RequireMount, want.Config.Log.Format = before.Inbox.RequireMount, before.Log.Format
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again := got.Config.Replace(after); len(again.Changed) > 0 || !cmp.Equal(again.Waiting, want.Waiting) {
		t.Errorf("a second time %q change and %q wait", again.Changed, again.Waiting)
	}
	if back := got.Config.Replace(before); len(back.Waiting) > 0 || !cmp.Equal(back.Config, *before, cmpopts.EquateEmpty()) {
		t.Errorf("back again %q wait", back.Waiting)
	}
}

// TestEveryKeyIsDecided keeps a new setting from being taken for one that a running stoker changes: whoever adds one says here
// what a reload does with it.
func TestEveryKeyIsDecided(t *testing.T) {
	reloaded := strings.Fields(`run.drain inbox.settle inbox.rescan inbox.poll inbox.tail_grace inbox.ready inbox.max_line inbox.duplicates
		inbox.strict outbox.order outbox.mode outbox.group outbox.notes defaults queue log.level log.content`)
	known := knownKeys(reflect.TypeFor[Config](), nil)
	for i, k := range known {
		if i+1 < len(known) && known[i+1].isIn(k) {
			continue // a table
		}
		waits := false
		for _, restart := range needsRestart() {
			waits = waits || k.isIn(restart)
		}
		live := false
		for _, name := range reloaded {
			live = live || k.String() == name
		}
		if waits == live {
			t.Errorf("%s: waits for a restart: %v, is reloaded: %v", k, waits, live)
		}
	}
}

func TestDurationsAreCompared(t *testing.T) {
	a, b := Default(), Default()
	b.Engine.Hang = Duration(time.Hour)
	if r := a.Replace(&b); !cmp.Equal(r.Waiting, []string{"engine.hang"}) || r.Config.Engine.Hang != a.Engine.Hang {
		t.Errorf("%+v", r)
	}
}
