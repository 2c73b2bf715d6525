package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// home is a folder with everything that one stoker has, and the daemon that runs on it.
type home struct {
	t      *testing.T
	dir    string
	binary string
	flags  []string // of every command: where everything is
	env    []string // of every command, beside the test's own
	daemon *exec.Cmd
	ended  chan struct{} // closed when the daemon's process is gone
	user   *syscall.Credential
}

const (
	// deadline is how long anything may take before a test gives up on it. A machine that runs other tests is slow.
	deadline = 90 * time.Second
	look     = 20 * time.Millisecond // between two looks at something that is waited for
)

// config takes files quickly; what it is given goes on in its table [engine.args].
const config = `
[inbox]
settle = "100ms"
rescan = "1s"
tail_grace = "500ms"
[log]
level = "debug"
[engine]
kind = "echo"
[engine.args]
`

func newHome(t *testing.T, binary, settings string) *home {
	t.Helper()
	dir, err := os.MkdirTemp("", "stoker-e2e-")
	if err != nil {
		t.Fatal(err)
	}
	h := &home{t: t, dir: dir, binary: binary, flags: []string{"--root", dir}}
	h.mkdir("inbox")
	h.write("config.toml", settings)
	t.Cleanup(h.remove)
	return h
}

// remove leaves the folder of a failed test where it is.
func (h *home) remove() {
	h.kill()
	if h.t.Failed() {
		h.t.Logf("left for inspection: %s", h.dir)
		return
	}
	if err := os.RemoveAll(h.dir); err != nil {
		h.t.Error(err)
	}
}

func (h *home) path(parts ...string) string {
	return filepath.Join(append([]string{h.dir}, parts...)...)
}

func (h *home) mkdir(parts ...string) {
	h.t.Helper()
	if err := os.MkdirAll(h.path(parts...), 0o775); err != nil {
		h.t.Fatal(err)
	}
}

func (h *home) write(name, content string) {
	h.t.Helper()
	if err := os.WriteFile(h.path(name), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// drop puts a whole file into the inbox as programs should: under another name first.
func (h *home) drop(name, content string) {
	h.t.Helper()
	h.mkdir("inbox", filepath.Dir(name))
	tmp := filepath.Join("inbox", filepath.Dir(name), ".incoming.tmp")
	h.write(tmp, content)
	if err := os.Rename(h.path(tmp), h.path("inbox", name)); err != nil {
		h.t.Fatal(err)
	}
}

// mark is the environment variable by which the processes of a home are known, the daemon and what it starts.
func (h *home) mark() string { return "E2E_HOME=" + strings.Join(h.flags, " ") }

func (h *home) command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.binary, slices.Concat(h.flags, args)...)
	cmd.Env = slices.Concat(os.Environ(), h.env, []string{h.mark()})
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: h.user, Pdeathsig: syscall.SIGKILL} // none outlives the tests
	return cmd
}

// start runs the daemon, with more environment, and does not wait for anything.
func (h *home) start(env ...string) {
	h.t.Helper()
	log, err := os.OpenFile(h.path("daemon.log"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	h.daemon = h.command("run")
	h.daemon.Env = append(h.daemon.Env, env...)
	h.daemon.Stdout, h.daemon.Stderr = log, log
	if err := h.daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan struct{})
	h.ended = ended
	go func(cmd *exec.Cmd) {
		defer close(ended)
		cmd.Wait()
	}(h.daemon)
}

// dead reports whether the daemon's process is gone.
func (h *home) dead() bool {
	select {
	case <-h.ended:
		return true
	default:
		return false
	}
}

// kill is kill -9, and waits until the worker has followed.
func (h *home) kill() {
	h.t.Helper()
	if h.daemon == nil {
		return
	}
	h.daemon.Process.Kill()
	<-h.ended
	h.daemon = nil
	if err := h.await("the worker's death", func() bool { return len(h.processes()) == 0 }); err != nil {
		h.t.Error(err)
	}
}

// stop is SIGTERM, after which the daemon must save, leave with 0 and leave nothing running.
func (h *home) stop() error {
	h.daemon.Process.Signal(syscall.SIGTERM)
	select {
	case <-h.ended:
	case <-time.After(deadline):
		return errors.New("the daemon does not stop")
	}
	code := h.daemon.ProcessState.ExitCode()
	h.daemon = nil
	if left := h.processes(); code != 0 || len(left) > 0 {
		return fmt.Errorf("after SIGTERM: exit code %d, processes left: %v\n%s", code, left, h.log())
	}
	return nil
}

func (h *home) log() string {
	b, _ := os.ReadFile(h.path("daemon.log"))
	lines := bytes.Split(b, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-20):], []byte("\n")))
}

// processes are the daemon and its worker, as the kernel knows them.
func (h *home) processes() []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		env, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !slices.Contains(strings.Split(string(env), "\x00"), h.mark()) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// worker is the pid of the worker, 0 if there is none.
func (h *home) worker() int {
	for _, pid := range h.processes() {
		if h.daemon == nil || pid != h.daemon.Process.Pid {
			return pid
		}
	}
	return 0
}

// stoker runs a command beside the daemon.
func (h *home) stoker(args ...string) (stdout string, code int) {
	h.t.Helper()
	cmd := h.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	if errs.Len() > 0 {
		h.t.Logf("stoker %s: %s", strings.Join(args, " "), errs.String())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// report runs a command with --json and reads what it writes; nothing, if the daemon dies under it.
func report[T any](h *home, args ...string) (v T, code int) {
	h.t.Helper()
	out, code := h.stoker(append(args, "--json")...)
	if out == "" && code != 0 {
		return v, code
	}
	if err := json.Unmarshal([]byte(out), &v, json.MatchCaseInsensitiveNames(true)); err != nil {
		h.t.Fatalf("stoker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return v, code
}

type verification struct {
	OK       bool  `json:"ok"`
	Batches  int   `json:"batches"`
	Requests int64 `json:"requests"`
	Redone   int64 `json:"redone"`
	Findings []struct {
		Batch, Invariant, File, Message string
		Note                            bool
	} `json:"findings"`
}

// errNoted means that verify found no invariant broken, but had something to note.
var errNoted = errors.New("verify notes")

// verify is `stoker verify`, which must find nothing, not even a note.
func (h *home) verify() (verification, error) {
	v, code := report[verification](h, "verify")
	switch {
	case code != 0 || !v.OK:
		return v, fmt.Errorf("verify: exit code %d, findings %+v", code, v.Findings)
	case len(v.Findings) > 0:
		return v, fmt.Errorf("%w: %+v", errNoted, v.Findings)
	}
	return v, nil
}

// await looks until something is so.
func (h *home) await(what string, so func() bool) error {
	for end := time.Now().Add(deadline); !so(); time.Sleep(look) {
		if time.Now().After(end) {
			return fmt.Errorf("waited %s for %s\n%s", deadline, what, h.log())
		}
	}
	return nil
}

// idle reports whether every dropped file has become results and is archived: stoker lets go of a claim only then.
func (h *home) idle() bool {
	return len(h.inboxFiles()) == 0
}

// inboxFiles are the batch files that lie in the inbox, claimed or not, and the folders of claims.
func (h *home) inboxFiles() (left []string) {
	filepath.WalkDir(h.path("inbox"), func(path string, e fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if err == nil && (strings.Contains(strings.ToLower(name), ".jsonl") || strings.HasPrefix(name, "batch_")) {
			left = append(left, path)
		}
		return nil
	})
	return left
}

// awaitIdle waits for idle. A daemon that says for seconds that it has nothing to do while files lie there has forgotten
// them.
func (h *home) awaitIdle() error {
	bored := 0
	for end, next := time.Now().Add(deadline), time.Now().Add(time.Second); !h.idle(); time.Sleep(look) {
		if time.Now().After(end) {
			return fmt.Errorf("not idle after %s: %q\n%s", deadline, h.inboxFiles(), h.log())
		}
		if h.dead() {
			return fmt.Errorf("the daemon died\n%s", h.log())
		}
		if time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(time.Second)
		if bored++; !h.saysIdle() {
			bored = 0
		}
		if bored == 5 && !h.idle() {
			return fmt.Errorf("the daemon has forgotten %q", h.inboxFiles())
		}
	}
	return h.awaitAnswer()
}

// awaitAnswer waits until the daemon answers, or has died. Before that, SIGTERM may find it without its handler.
func (h *home) awaitAnswer() error {
	return h.await("an answer", func() bool {
		_, code := h.stoker("status")
		return code == 0 || h.dead()
	})
}

type status struct {
	Instance string
	Engine   struct {
		State, Reason      string
		Capacity, Restarts int
		InFlight           int `json:"in_flight"`
	}
	Dispatch struct{ Running, Waiting []any }
	Inbox    struct {
		Waiting, Ignored []struct {
			Name          any // a string, or {"base64":…}
			State, Reason string
		}
		Foreign []struct{ Claims int }
	}
	Outbox struct{ Queue int }
}

func (h *home) saysIdle() bool {
	s, code := report[status](h, "status")
	return code == 0 && len(s.Dispatch.Running)+len(s.Dispatch.Waiting)+len(s.Inbox.Waiting)+s.Outbox.Queue == 0
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
