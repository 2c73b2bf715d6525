// Package layers holds the rules of who may import whom, so that they are kept and not hoped for.
package layers

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

type pkg struct {
	ImportPath string
	Imports    []string
}

// packages returns stoker's own, with what they import themselves, tests left out.
func packages(t *testing.T) []pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "stoker/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// within reports whether a package is the room or lies in it.
func within(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }

func TestLayers(t *testing.T) {
	rules := []struct {
		why      string
		applies  func(path string) bool
		mayNever []string
	}{
		{"the store knows neither who fills nor who reads it", func(p string) bool { return within(p, "stoker/store") }, []string{"stoker/engine", "stoker/daemon"}},
		{"the engine knows no batches", func(p string) bool { return within(p, "stoker/engine") }, []string{"stoker/daemon", "stoker/store/batchfile", "go.etcd.io/bbolt"}},
		{"line formats and names are pure", func(p string) bool { return p == "stoker/store/batchfile" || p == "stoker/store/layout" }, []string{"os", "stoker/store/durable"}},
		{"a journal knows no lines", func(p string) bool { return p == "stoker/store/journal" }, []string{"stoker/store/batchfile", "stoker/store/dedupe"}},
		{"only the commands know the command line", func(p string) bool { return !within(p, "stoker/cmd") }, []string{"github.com/spf13/cobra", "github.com/spf13/pflag"}},
		{"only the service's room knows service managers", func(p string) bool { return p != "stoker/packaging/service" }, []string{"github.com/kardianos/service"}},
		{"what is embedded depends on nothing", func(p string) bool { return p == "stoker/packaging" }, []string{"stoker/daemon", "stoker/engine", "stoker/store"}},
		{"only the store knows its database", func(p string) bool { return p != "stoker/store" }, []string{"go.etcd.io/bbolt"}},
		{"rooms of the daemon are wired by the daemon", func(p string) bool {
			return within(p, "stoker/daemon/inbox") || within(p, "stoker/daemon/outbox") || within(p, "stoker/daemon/dispatch")
		}, []string{"stoker/daemon/config", "stoker/daemon/api", "stoker/daemon/inbox", "stoker/daemon/outbox", "stoker/daemon/dispatch"}},
	}
	for _, p := range packages(t) {
		for _, rule := range rules {
			if !rule.applies(p.ImportPath) {
				continue
			}
			for _, imported := range p.Imports {
				for _, never := range rule.mayNever {
					if within(imported, never) && !within(imported, p.ImportPath) {
						t.Errorf("%s imports %s, but %s", p.ImportPath, imported, rule.why)
					}
				}
			}
		}
	}
}
