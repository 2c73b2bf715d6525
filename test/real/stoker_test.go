//go:build real

// Package real runs the binary on a real vLLM with a real model: what echo cannot show. STOKER_TEST_CONFIG names the
// configuration that `stoker setup --demo-model` wrote; `make test-real` sets it.
package real

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a step may take on a slow machine: an engine start takes 15 to 60 s on two cores.
const patience = 8 * time.Minute

// binary is the stoker under test, config the one that setup wrote.
var binary, config string

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	config = os.Getenv("STOKER_TEST_CONFIG")
	if config == "" {
		fmt.Fprintln(os.Stderr, "set STOKER_TEST_CONFIG to the configuration that `stoker setup --demo-model` wrote, or use `make test-real`")
		return 1
	}
	dir, err := os.MkdirTemp("", "stoker-real-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "stoker")
	if out, err := exec.Command("go", "build", "-o", binary, "stoker/cmd/stoker").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// service is a stoker with a root of its own.
type service struct {
	t    testing.TB
	root string
	env  []string
	cmd  *exec.Cmd
	log  *bytes.Buffer

	instance string
	groups   map[int]bool              // process groups of the workers that status named
	enclose  func(*exec.Cmd) *exec.Cmd // where the daemon runs; nil: here
}

func newService(t testing.TB, env ...string) *service {
	s := &service{t: t, root: t.TempDir(), env: append([]string{"STOKER_INBOX__SETTLE=200ms"}, env...), groups: map[int]bool{}}
	if err := os.MkdirAll(filepath.Join(s.root, "inbox"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s.cmd != nil {
			s.kill()
		}
		if t.Failed() && s.log != nil {
			t.Logf("log of the last daemon:\n%s", s.log)
		}
	})
	return s
}

func (s *service) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, append([]string{"--config", config, "--root", s.root}, args...)...)
	cmd.Env = append(os.Environ(), s.env...)
	return cmd
}

func (s *service) start() {
	s.t.Helper()
	s.log = new(bytes.Buffer)
	s.cmd = s.command("run")
	if s.enclose != nil {
		s.cmd = s.enclose(s.cmd)
	}
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // none outlives the tests
	s.cmd.Stderr = s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	s.cmd = nil
}

// stop ends the daemon as systemd does, and expects a clean exit that leaves no process behind.
func (s *service) stop() {
	s.t.Helper()
	s.cmd.Process.Signal(syscall.SIGTERM)
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("the daemon ended with %v", err)
	}
	s.cmd = nil
	if left := s.processes(); len(left) > 0 {
		s.t.Errorf("processes are left behind: %v", left)
	}
}

type status struct {
	Instance string
	Engine   struct {
		State, Phase, Reason, Hint string
		Shortage                   struct{ Need, Free, Total int64 }
		PID                        int
		Restarts                   int
		InFlight                   int `json:"in_flight"`
	}
	Dispatch struct {
		Running []struct{ Completed, Failed, Redone uint32 }
		Totals  struct{ Completed, Redone, Quarantined int }
	}
}

func (s *service) status() (st status, ok bool) {
	out, _ := s.command("status", "--json").Output()
	if json.Unmarshal(out, &st) != nil {
		return st, false
	}
	s.instance = st.Instance
	if st.Engine.PID > 0 {
		s.groups[st.Engine.PID] = true // a worker leads its group
	}
	return st, true
}

// await polls until the condition holds.
func (s *service) await(what string, holds func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited %s for %s", patience, what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (s *service) awaitReady() {
	s.t.Helper()
	s.await("the engine to be ready", func() bool {
		st, ok := s.status()
		if ok && st.Engine.State == "failed" {
			s.t.Fatalf("the engine is down: %s", st.Engine.Reason)
		}
		return ok && st.Engine.State == "ready"
	})
}

// awaitReason waits until the engine has died, or not started, for a reason with this text in it.
func (s *service) awaitReason(text string) (st status) {
	s.t.Helper()
	s.await("an engine that is down because "+text, func() (ok bool) {
		st, ok = s.status()
		return ok && strings.Contains(st.Engine.Reason, text)
	})
	return st
}

// redone is how many lines of the running batch faults have made run again.
func (s *service) redone() int {
	st, ok := s.status()
	if !ok || len(st.Dispatch.Running) == 0 {
		s.t.Fatal("no batch runs any more: make it longer")
	}
	return int(st.Dispatch.Running[0].Redone)
}

// awaitDone waits until some of the running batch's lines are done, but not all.
func (s *service) awaitDone(n uint32) {
	s.t.Helper()
	s.await(fmt.Sprintf("%d lines to be done", n), func() bool {
		st, ok := s.status()
		return ok && len(st.Dispatch.Running) > 0 && st.Dispatch.Running[0].Completed >= n
	})
}

// drop puts a file into the inbox as a careful writer does.
func (s *service) drop(name string, lines []string) {
	s.t.Helper()
	inbox := filepath.Join(s.root, "inbox")
	tmp := filepath.Join(inbox, "."+name+".tmp")
	if err := os.WriteFile(tmp, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(inbox, name)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *service) ended(name string) bool {
	_, err := os.Stat(filepath.Join(s.root, "outbox", name+".batch.json"))
	return err == nil
}

// awaitEnded waits for a batch as long as there is progress: a machine that does other things, too, is slow, but not stuck.
func (s *service) awaitEnded(name string) {
	s.t.Helper()
	var before, now status
	for deadline := time.Now().Add(patience); !s.ended(name); time.Sleep(50 * time.Millisecond) {
		now, _ = s.status()
		if now.Dispatch.Totals != before.Dispatch.Totals || now.Engine.State != before.Engine.State {
			before, deadline = now, time.Now().Add(patience)
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s makes no progress for %s: %+v", name, patience, now)
		}
	}
}

type result struct {
	CustomID     string `json:"custom_id"`
	Response     any    `json:"response"`
	FinishReason string `json:"finish_reason"`
	Error        *struct {
		Code, Message string
		Status        *int
	}
}

// results reads a result file; a missing one has none.
func (s *service) results(file string) map[string]result {
	s.t.Helper()
	all := map[string]result{}
	f, err := os.Open(filepath.Join(s.root, "outbox", file))
	if errors.Is(err, fs.ErrNotExist) {
		return all
	}
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 16<<20)
	for in.Scan() {
		var r result
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			s.t.Fatalf("%s: %v", file, err)
		}
		if _, twice := all[r.CustomID]; twice {
			s.t.Errorf("%s: %s stands there twice", file, r.CustomID)
		}
		all[r.CustomID] = r
	}
	return all
}

// outcome counts the ids without an answer, and the result lines beyond each id's one.
func (s *service) outcome(name string, ids []string) (lost, doubled int) {
	s.t.Helper()
	count := map[string]int{}
	for _, suffix := range []string{".output.jsonl", ".errors.jsonl"} {
		b, err := os.ReadFile(filepath.Join(s.root, "outbox", name+suffix))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.t.Fatal(err)
		}
		for line := range bytes.Lines(b) {
			var r result
			if err := json.Unmarshal(line, &r); err != nil {
				s.t.Fatalf("%s%s: %v", name, suffix, err)
			}
			count[r.CustomID]++
		}
	}
	output := s.results(name + ".output.jsonl")
	for _, id := range ids {
		if _, ok := output[id]; !ok {
			lost++
		}
	}
	for _, n := range count {
		doubled += n - 1
	}
	if lost > 0 || doubled > 0 {
		s.t.Errorf("of %d lines %d are lost, %d doubled", len(ids), lost, doubled)
	}
	return lost, doubled
}

// batchRedone is what a published batch says of the lines that ran again.
func (s *service) batchRedone(name string) int {
	s.t.Helper()
	var batch struct{ Stoker struct{ Redone int } }
	b, err := os.ReadFile(filepath.Join(s.root, "outbox", name+".batch.json"))
	if err == nil {
		err = json.Unmarshal(b, &batch)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return batch.Stoker.Redone
}

// expectOnce proves that each id stands exactly once in the output, and nothing else anywhere.
func (s *service) expectOnce(name string, ids []string) {
	s.t.Helper()
	output, failures := s.results(name+".output.jsonl"), s.results(name+".errors.jsonl")
	for _, id := range ids {
		if _, ok := output[id]; !ok {
			s.t.Errorf("%s has no answer: %+v", id, failures[id].Error)
		}
	}
	if len(output) != len(ids) || len(failures) != 0 {
		s.t.Errorf("%d answers and %d errors for %d lines", len(output), len(failures), len(ids))
	}
}

func (s *service) verify() {
	s.t.Helper()
	out, err := s.command("verify").CombinedOutput()
	s.t.Logf("verify: %s", out)
	if err != nil {
		s.t.Errorf("verify: %v", err)
	}
}

// processes are the living ones of the engine, by their command lines: their environment names this stoker's instance, or
// they are in the group of a worker. vLLM's EngineCore overwrites its environment with a title.
func (s *service) processes() map[int]string {
	s.t.Helper()
	if s.instance == "" {
		s.t.Fatal("no status was asked for before")
	}
	found := map[int]string{}
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		stat, _ := os.ReadFile(filepath.Join(dir, "stat"))
		fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // state, parent, group, … of proc_pid_stat(5)
		if len(fields) < 3 || bytes.ContainsAny(fields[0], "ZX") {
			continue
		}
		group, _ := strconv.Atoi(string(fields[2]))
		env, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if !s.groups[group] && !bytes.Contains(env, []byte("STOKER_WORKER="+s.instance+":")) {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(dir))
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		found[pid] = strings.TrimSpace(strings.ReplaceAll(string(cmdline), "\x00", " "))
	}
	return found
}

// requests makes lines that take the engine a while: each answer is 24 tokens long, whatever the model wants to say.
func requests(prefix string, n int) (lines, ids []string) {
	for i := range n {
		id := fmt.Sprintf("%s-%d", prefix, i)
		ids = append(ids, id)
		lines = append(lines, fmt.Sprintf(`{"custom_id":%q,"prompt":"Tell me something about the number %d.","max_tokens":24,"ignore_eos":true,"temperature":0}`, id, i))
	}
	return lines, ids
}
