package main

import (
	"strings"
	"testing"
	"time"

	"stoker/engine"
)

func TestReplicaWaitsForAnother(t *testing.T) {
	e := engine.Status{State: engine.Loading, Replicas: []engine.Status{{State: engine.Loading}, {
		State: engine.Starting, Phase: engine.WaitPhase, Detail: "for replica 1 to load", PhaseSince: time.Now().Add(-time.Minute),
	}, {State: engine.Starting}}}
	var out strings.Builder
	writeEngine(&out, &e)
	lines := strings.Split(out.String(), "\n")
	if !strings.HasPrefix(lines[2], "  2      waiting for replica 1 to load 1:0") || lines[3] != "  3      starting" {
		t.Errorf("status says\n%s", out.String())
	}
}

func TestLoadingEngine(t *testing.T) {
	for _, c := range []struct {
		status engine.Status
		want   string
	}{
		{engine.Status{}, "engine   starting 0:00; in all 0:00\n"},
		{
			engine.Status{Phases: []engine.Phase{{Name: "starting", Seconds: 1.9}}},
			"engine   starting 0:01; in all 0:01\n",
		},
		{
			engine.Status{Phase: "loading", Detail: "weights 40 %", Phases: []engine.Phase{
				{Name: "starting", Seconds: 1, LastSeconds: 2}, {Name: "importing", Seconds: 40, LastSeconds: 30},
				{Name: "loading", Seconds: 24.5, LastSeconds: 31.2}, {Name: "warming", LastSeconds: 60},
			}},
			"engine   loading weights 40 % 0:24, last time 0:31; in all 1:05, last time 2:03\n",
		},
	} {
		c.status.State = engine.Loading
		var out strings.Builder
		writeEngine(&out, &c.status)
		if out.String() != c.want {
			t.Errorf("%+v is shown as %q, want %q", c.status.Phases, out.String(), c.want)
		}
	}
}
