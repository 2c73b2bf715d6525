package engine

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPhases(t *testing.T) {
	var none phases
	if none.end(time.Now()) || len(none.at(time.Now(), nil)) > 0 {
		t.Error("there are phases before the start")
	}
	began := time.Now()
	at := func(seconds int) time.Time { return began.Add(time.Duration(seconds) * time.Second) }
	p := beginPhases(began)
	p.enter("loading", at(2))
	p.enter("compiling", at(5))
	p.enter("loading", at(9))
	last := []Phase{{Name: FirstPhase, Seconds: 1}, {Name: "loading", Seconds: 8}, {Name: "warming", Seconds: 3}}
	want := []Phase{
		{Name: FirstPhase, Seconds: 2, LastSeconds: 1}, {Name: "loading", Seconds: 4, LastSeconds: 8},
		{Name: "compiling", Seconds: 4}, {Name: "warming", LastSeconds: 3},
	}
	if diff := cmp.Diff(want, p.at(at(10), last)); diff != "" {
		t.Errorf("while it loads (-want +got):\n%s", diff)
	}
	if !p.end(at(11)) || p.end(at(12)) {
		t.Error("a start does not end once")
	}
	p.enter("late", at(13))
	want = []Phase{{Name: FirstPhase, Seconds: 2}, {Name: "loading", Seconds: 5}, {Name: "compiling", Seconds: 4}}
	if diff := cmp.Diff(want, p.at(at(20), nil)); diff != "" {
		t.Errorf("after the end (-want +got):\n%s", diff)
	}
}

func TestStartsAreRemembered(t *testing.T) {
	dir := t.TempDir()
	remember := func(version string, seconds float64) {
		t.Helper()
		s := pastStart{startKind{"vllm", "m", version}, []Phase{{Name: "loading", Seconds: seconds}}}
		if err := rememberStart(dir, s); err != nil {
			t.Fatal(err)
		}
	}
	seconds := func(version string) float64 {
		past := readStarts(dir)
		for _, p := range past.phases(startKind{"vllm", "m", version}) {
			return p.Seconds
		}
		return 0
	}
	remember("1", 10)
	remember("2", 20)
	remember("1", 30)
	if a, b := seconds("1"), seconds("2"); a != 30 || b != 20 {
		t.Errorf("the last starts took %v and %v, want 30 and 20", a, b)
	}
	for i := range maxStarts - 1 {
		remember(strconv.Itoa(100+i), 1)
	}
	if a, b := seconds("1"), seconds("2"); a != 30 || b != 0 {
		t.Errorf("after others the last starts took %v and %v, want 30 and none", a, b)
	}
	for _, damage := range []string{"", "{", `{"starts":[{"phases":7}]}`, "\x00\x00"} {
		if err := os.WriteFile(filepath.Join(dir, startsFile), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		if past := readStarts(dir); len(past.Starts) > 0 {
			t.Errorf("%q holds %+v", damage, past)
		}
	}
	remember("1", 40)
	if a := seconds("1"); a != 40 {
		t.Errorf("after damage the last start took %v, want 40", a)
	}
}

// The next start of the same model and version knows how long this one took, one of another model does not.
func TestNextStartKnowsTheLast(t *testing.T) {
	launch := script(t, `echo "$hello" >&4
echo '{"type":"phase","phase":"loading","detail":"weights"}' >&4
sleep 0.1
echo "$ready" >&4
serve`)
	launch.Model = "one"
	o := options(t, launch)
	last := func(model string) map[string]bool {
		t.Helper()
		launch.Model = model
		o := o
		o.Prepare = options(t, launch).Prepare
		s := supervise(t, o)
		ready(t, s)
		known := map[string]bool{}
		for _, p := range s.Status().Phases {
			known[p.Name] = p.LastSeconds > 0
		}
		s.Stop()
		return known
	}
	if diff := cmp.Diff(map[string]bool{FirstPhase: false, "loading": false}, last("one")); diff != "" {
		t.Errorf("at the first start (-want +got):\n%s", diff)
	}
	if !last("one")["loading"] {
		t.Error("the second start knows nothing of the first")
	}
	if last("other")["loading"] {
		t.Error("another model's start is taken for comparable")
	}
	if !last("one")["loading"] {
		t.Error("another model's start made the first forgotten")
	}
}

// The state folder is not in the way of a start: what cannot be remembered is not.
func TestStartsWithoutMemory(t *testing.T) {
	launch := script(t, `echo "$hello" >&4
echo '{"type":"phase","phase":"loading","detail":"weights"}' >&4
echo "$ready" >&4
serve`)
	o := options(t, launch)
	if err := os.Mkdir(filepath.Join(o.LogDir, startsFile), 0o700); err != nil {
		t.Fatal(err)
	}
	ready(t, supervise(t, o))
}
