package rig

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

// Home is a folder with everything that one stoker has, and the daemon that runs on it.
type Home struct {
	Dir       string
	Binary    string
	Flags     []string // of every command: where everything is
	Env       []string // of every command, beside the test's own
	Under     []string // what the daemon runs under: a tracer that becomes the daemon's process; nil: nothing
	Daemon    *exec.Cmd
	Unordered bool                // results come in the order in which they were made
	User      *syscall.Credential // who runs everything; nil: the test's own
	Output    string              // the file that the daemon's output goes to
	t         testing.TB
	ended     chan struct{} // closed when the daemon's process is gone
}

const (
	// Deadline is how long anything may take before a test gives up on it. A machine that runs other tests is slow.
	Deadline = 90 * time.Second
	look     = 20 * time.Millisecond // between two looks at something that is waited for
)

// Config takes files quickly; what it is given goes on in its table [engine.args].
const Config = `
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

// NewHome makes a folder for the binary, Released or Faulty, with settings as its configuration.
func NewHome(t testing.TB, binary, settings string) *Home {
	t.Helper()
	dir, err := os.MkdirTemp("", "stoker-home-")
	if err != nil {
		t.Fatal(err)
	}
	h := At(t, dir, binary)
	h.Mkdir("inbox")
	h.Write("config.toml", settings)
	t.Cleanup(h.remove)
	return h
}

// At is a home in a folder that the test makes and removes.
func At(t testing.TB, dir, binary string) *Home {
	return &Home{t: t, Dir: dir, Binary: binary, Flags: []string{"--root", dir}, Output: filepath.Join(dir, "daemon.log")}
}

// remove leaves the folder of a failed test where it is.
func (h *Home) remove() {
	h.Kill()
	if h.t.Failed() {
		h.t.Logf("left for inspection: %s", h.Dir)
		return
	}
	if err := os.RemoveAll(h.Dir); err != nil {
		h.t.Error(err)
	}
}

// Path is where something lies in the home.
func (h *Home) Path(parts ...string) string {
	return filepath.Join(append([]string{h.Dir}, parts...)...)
}

// Mkdir makes a folder, and those above it.
func (h *Home) Mkdir(parts ...string) {
	h.t.Helper()
	if err := os.MkdirAll(h.Path(parts...), 0o775); err != nil {
		h.t.Fatal(err)
	}
}

// Write makes or replaces a file.
func (h *Home) Write(name, content string) {
	h.t.Helper()
	if err := os.WriteFile(h.Path(name), []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// Drop puts a whole file into the inbox as programs should: under another name first.
func (h *Home) Drop(name, content string) {
	h.t.Helper()
	h.Mkdir("inbox", filepath.Dir(name))
	tmp := filepath.Join("inbox", filepath.Dir(name), ".incoming.tmp")
	h.Write(tmp, content)
	if err := os.Rename(h.Path(tmp), h.Path("inbox", name)); err != nil {
		h.t.Fatal(err)
	}
}

// mark is the environment variable by which the processes of a home are known, the daemon and what it starts. A worker
// inherits no STOKER_ variable.
func (h *Home) mark() string { return "RIG_HOME=" + strings.Join(h.Flags, " ") }

// Command is a stoker on this home, not started.
func (h *Home) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(h.Binary, slices.Concat(h.Flags, args)...)
	cmd.Env = slices.Concat(os.Environ(), h.Env, []string{h.mark()})
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: h.User, Pdeathsig: syscall.SIGKILL} // none outlives the tests
	return cmd
}

// Start runs the daemon, with more environment, and does not wait for anything.
func (h *Home) Start(env ...string) {
	h.t.Helper()
	h.Launch([]string{"run"}, env...)
}

// Launch runs a command in the daemon's place: `run`, or `once`.
func (h *Home) Launch(args []string, env ...string) {
	h.t.Helper()
	log, err := os.OpenFile(h.Output, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		h.t.Fatal(err)
	}
	defer log.Close()
	h.Daemon = h.under(h.Command(args...))
	h.Daemon.Env = append(h.Daemon.Env, env...)
	h.Daemon.Stdout, h.Daemon.Stderr = log, log
	if err := h.Daemon.Start(); err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan struct{})
	h.ended = ended
	go func(cmd *exec.Cmd) {
		defer close(ended)
		cmd.Wait()
	}(h.Daemon)
}

// under has a command run by the home's tracer.
func (h *Home) under(cmd *exec.Cmd) *exec.Cmd {
	if len(h.Under) == 0 {
		return cmd
	}
	traced := exec.Command(h.Under[0], slices.Concat(h.Under[1:], cmd.Args)...)
	traced.Env, traced.SysProcAttr = cmd.Env, cmd.SysProcAttr
	return traced
}

// Dead reports whether the daemon's process is gone.
func (h *Home) Dead() bool {
	select {
	case <-h.ended:
		return true
	default:
		return false
	}
}

// Kill is kill -9, and waits until the worker has followed.
func (h *Home) Kill() {
	h.t.Helper()
	if h.Daemon == nil {
		return
	}
	h.Daemon.Process.Kill()
	<-h.ended
	h.Daemon = nil
	if err := h.Await("the worker's death", func() bool { return len(h.Processes()) == 0 }); err != nil {
		h.t.Error(err)
	}
}

// Stop is SIGTERM, after which the daemon must save, leave with 0 and leave nothing running.
func (h *Home) Stop() error {
	end, err := h.Terminate()
	if err != nil {
		return err
	}
	code := end.ExitCode()
	if left := h.Processes(); code != 0 || len(left) > 0 {
		return fmt.Errorf("after SIGTERM: exit code %d, processes left: %v\n%s", code, left, h.Log())
	}
	return nil
}

// Terminate sends SIGTERM to the daemon and waits for its end.
func (h *Home) Terminate() (*os.ProcessState, error) {
	h.Daemon.Process.Signal(syscall.SIGTERM)
	return h.Wait()
}

// Wait waits for the daemon's end.
func (h *Home) Wait() (*os.ProcessState, error) {
	select {
	case <-h.ended:
	case <-time.After(Deadline):
		return nil, fmt.Errorf("the daemon does not stop\n%s", h.Log())
	}
	end := h.Daemon.ProcessState
	h.Daemon = nil
	return end, nil
}

// Log is the end of what the daemon said.
func (h *Home) Log() string {
	b, _ := os.ReadFile(h.Output)
	lines := bytes.Split(b, []byte("\n"))
	return string(bytes.Join(lines[max(0, len(lines)-20):], []byte("\n")))
}

// Processes are the daemon and its worker, as the kernel knows them.
func (h *Home) Processes() []int {
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

// GiveTo makes the home another user's, who runs stoker then.
func (h *Home) GiveTo(id uint32) {
	h.t.Helper()
	h.User = &syscall.Credential{Uid: id, Gid: id}
	err := filepath.Walk(h.Dir, func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Chown(path, int(id), int(id)))
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// Worker is the pid of the worker, 0 if there is none.
func (h *Home) Worker() int {
	for _, pid := range h.Processes() {
		if h.Daemon == nil || pid != h.Daemon.Process.Pid {
			return pid
		}
	}
	return 0
}

// Stoker runs a command beside the daemon.
func (h *Home) Stoker(args ...string) (stdout string, code int) {
	h.t.Helper()
	cmd := h.Command(args...)
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

// Report runs a command with --json and reads what it writes; nothing, if the daemon dies under it.
func Report[T any](h *Home, args ...string) (v T, code int) {
	h.t.Helper()
	out, code := h.Stoker(append(args, "--json")...)
	if out == "" && code != 0 {
		return v, code
	}
	if err := json.Unmarshal([]byte(out), &v, json.MatchCaseInsensitiveNames(true)); err != nil {
		h.t.Fatalf("stoker %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return v, code
}

// Verification is what `stoker verify --json` says.
type Verification struct {
	OK       bool      `json:"ok"`
	Batches  int       `json:"batches"`
	Requests int64     `json:"requests"`
	Redone   int64     `json:"redone"`
	Findings []Finding `json:"findings"`
}

// Finding is an invariant that verify found broken, or a note of it.
type Finding struct {
	Batch, Invariant, File, Message string
	Line                            int64
	Note                            bool
}

// String is the finding in one line, the invariant first.
func (f Finding) String() string {
	kind := f.Invariant
	if f.Note {
		kind = "note"
	}
	return fmt.Sprintf("%s: %s:%d: %s", kind, f.File, f.Line, f.Message)
}

// Verify is `stoker verify`, which must find nothing, not even a note.
func (h *Home) Verify() (Verification, error) {
	v, code := Report[Verification](h, "verify")
	if code == 0 && v.OK && len(v.Findings) == 0 {
		return v, nil
	}
	var all strings.Builder
	for _, f := range v.Findings {
		fmt.Fprintf(&all, "%s\n", f)
	}
	return v, fmt.Errorf("verify exits with %d: %s", code, strings.TrimSpace(all.String()))
}

// Await looks until something is so.
func (h *Home) Await(what string, so func() bool) error {
	for end := time.Now().Add(Deadline); !so(); time.Sleep(look) {
		if time.Now().After(end) {
			return fmt.Errorf("waited %s for %s\n%s", Deadline, what, h.Log())
		}
	}
	return nil
}

// Idle reports whether every dropped file has become results and is archived: stoker lets go of a claim only then.
func (h *Home) Idle() bool {
	return len(h.InboxFiles()) == 0
}

// InboxFiles are the batch files that lie in the inbox, claimed or not, and the folders of claims.
func (h *Home) InboxFiles() (left []string) {
	filepath.WalkDir(h.Path("inbox"), func(path string, e fs.DirEntry, err error) error {
		name := filepath.Base(path)
		if err == nil && (strings.Contains(strings.ToLower(name), ".jsonl") || strings.HasPrefix(name, "batch_")) {
			left = append(left, path)
		}
		return nil
	})
	return left
}

// AwaitIdle waits for idle. A daemon that says for seconds that it has nothing to do while files lie there has forgotten
// them.
func (h *Home) AwaitIdle() error {
	bored := 0
	for end, next := time.Now().Add(Deadline), time.Now().Add(time.Second); !h.Idle(); time.Sleep(look) {
		if time.Now().After(end) {
			return fmt.Errorf("not idle after %s: %q\n%s", Deadline, h.InboxFiles(), h.Log())
		}
		if h.Dead() {
			return fmt.Errorf("the daemon died\n%s", h.Log())
		}
		if time.Now().Before(next) {
			continue
		}
		next = time.Now().Add(time.Second)
		if bored++; !h.saysIdle() {
			bored = 0
		}
		if bored == 5 && !h.Idle() {
			return fmt.Errorf("I7: the daemon has forgotten %q", h.InboxFiles())
		}
	}
	return h.AwaitAnswer()
}

// AwaitAnswer waits until the daemon answers, or has died. Before that, SIGTERM may find it without its handler.
func (h *Home) AwaitAnswer() error {
	return h.Await("an answer", func() bool {
		_, code := h.Stoker("status")
		return code == 0 || h.Dead()
	})
}

// End stops an idle stoker and judges all it did.
func (h *Home) End(inputs ...Input) error {
	if err := h.AwaitIdle(); err != nil {
		return err
	}
	if err := h.Stop(); err != nil {
		return err
	}
	_, err := h.Verify()
	return errors.Join(err, h.Judge(inputs...))
}

// Status is what `stoker status --json` says.
type Status struct {
	Instance string
	Engine   struct {
		Engine
		Replicas []Engine
	}
	Dispatch struct {
		Running, Waiting []any
		Totals           struct{ Completed, Redone, Quarantined int }
	}
	Inbox struct {
		Waiting, Ignored []struct {
			Name          any // a string, or {"base64":…}
			State, Reason string
		}
		Foreign []struct{ Claims int }
		Archive struct{ Waiting int }
	}
	Outbox  struct{ Queue int }
	Storage []Storage
}

// Engine is what stoker tells of an engine, or of one of its replicas.
type Engine struct {
	State, Reason      string
	Phase, Detail      string
	Capacity, Restarts int
	PID                int
	InFlight           int `json:"in_flight"`
}

// Storage is a folder that something is wrong with, as stoker sees it.
type Storage struct {
	Name, Path, Kind, Reason string
	Needed                   int64 `json:"needed_bytes"`
	Free                     int64 `json:"free_bytes"`
	Waits                    []string
}

// AwaitState waits until this many files of the inbox are in a state.
func (h *Home) AwaitState(state string, n int) (reason string) {
	h.t.Helper()
	err := h.Await(fmt.Sprintf("%d files %s", n, state), func() bool {
		found := 0
		s, _ := Report[Status](h, "status")
		for _, w := range s.Inbox.Waiting {
			if w.State == state {
				found, reason = found+1, w.Reason
			}
		}
		return found == n
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return reason
}

func (h *Home) saysIdle() bool {
	s, code := Report[Status](h, "status")
	return code == 0 && s.Idle()
}

// Idle reports whether stoker says that it has nothing to do.
func (s *Status) Idle() bool {
	return len(s.Dispatch.Running)+len(s.Dispatch.Waiting)+len(s.Inbox.Waiting)+s.Inbox.Archive.Waiting+s.Outbox.Queue == 0
}

// Glob finds files that must be possible to look for.
func Glob(t testing.TB, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return found
}
