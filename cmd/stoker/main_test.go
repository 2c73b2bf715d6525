package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/rogpeppe/go-internal/testscript"

	"stoker/engine/echo"
)

// TestMain makes this test's binary stoker: the scripts run the real program, which runs itself as its worker.
func TestMain(m *testing.M) {
	if ran, code := echo.Main(); ran {
		os.Exit(code)
	}
	testscript.Main(m, map[string]func(){"stoker": main})
}

// TestScripts runs testdata/script: each script has a folder of its own, with the configuration that takes files quickly.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:      filepath.Join("testdata", "script"),
		Setup:    setupScript,
		Deadline: time.Now().Add(scriptDeadline),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "await": await, "until": until, "signal": sendSignal, "pack": pack, "repeat": repeat,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// scriptConfig is what $STOKER_CONFIG names, unless a script brings its own config.toml. Scripts change it by the environment.
const scriptConfig = `[paths]
inbox = "inbox"
outbox = "outbox"
archive = "archive"
state = "state"
[inbox]
settle = "100ms"
tail_grace = "400ms"
rescan = "1s"
[engine]
kind = "echo"
[api]
socket = "stoker.sock"
`

func setupScript(env *testscript.Env) error {
	path := filepath.Join(env.WorkDir, "config.toml")
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		if err := os.WriteFile(path, []byte(scriptConfig), 0o644); err != nil {
			return err
		}
	}
	env.Setenv("STOKER_CONFIG", path)
	env.Setenv("XDG_STATE_HOME", filepath.Join(env.WorkDir, ".xdg-state"))
	env.Setenv("TZ", "UTC")
	env.Setenv("GORACE", "atexit_sleep_ms=0") // else each command of a race detector's run takes a second more
	return os.Mkdir(filepath.Join(env.WorkDir, "inbox"), 0o775)
}

const (
	// scriptDeadline is when what is left of all scripts is stopped; deadline is how long one command waits.
	scriptDeadline = 4 * time.Minute
	deadline       = time.Minute
	look           = 50 * time.Millisecond
)

// exits runs a command that must end with an exit code: exits 3 stoker check x.jsonl. Its output is left for stdout and
// stderr.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s exits with %d, not with %d", strings.Join(args[1:], " "), got, want)
	}
}

// await waits until files exist, or with ! until none of them does.
func await(ts *testscript.TestScript, neg bool, args []string) {
	for _, pattern := range args {
		poll(ts, pattern, func() bool {
			found, err := filepath.Glob(ts.MkAbs(pattern))
			ts.Check(err)
			return len(found) > 0 != neg
		})
	}
}

// until runs a command until a line of its output matches: until 'engine +ready' stoker status.
func until(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: until PATTERN PROGRAM ARGS...")
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	poll(ts, args[0], func() bool {
		ts.Exec(args[1], args[2:]...) // its exit code is another command's matter
		return pattern.MatchString(ts.ReadFile("stdout"))
	})
}

func poll(ts *testscript.TestScript, what string, so func() bool) {
	for end := time.Now().Add(deadline); !so(); time.Sleep(look) {
		if time.Now().After(end) {
			ts.Fatalf("waited %s for %s", deadline, what)
		}
	}
}

// sendSignal sends a signal to the script's daemon.
func sendSignal(ts *testscript.TestScript, neg bool, args []string) {
	signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "USR1": syscall.SIGUSR1, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}
	if neg || len(args) != 1 || signals[args[0]] == nil {
		ts.Fatalf("usage: signal TERM|INT|USR1|HUP|KILL")
	}
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(signals[args[0]]))
	}
}

// pack compresses a file by the suffix of the second name.
func pack(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: pack FILE FILE.gz|FILE.zst")
	}
	f, err := os.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	defer f.Close()
	w := interface {
		Write([]byte) (int, error)
		Close() error
	}(gzip.NewWriter(f))
	if strings.HasSuffix(args[1], ".zst") {
		w, err = zstd.NewWriter(f)
		ts.Check(err)
	}
	_, err = w.Write([]byte(ts.ReadFile(args[0])))
	ts.Check(errors.Join(err, w.Close()))
}

// repeat writes a file of N lines, each the text with % replaced by the line's number.
func repeat(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: repeat N TEXT FILE")
	}
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, strings.ReplaceAll(args[1], "%", strconv.Itoa(i+1)))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(b.String()), 0o644))
}
