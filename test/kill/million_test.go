package kill

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"stoker/test/figures"
	"stoker/test/rig"
)

const (
	million      = 1_000_000
	millionShort = 100_000
)

// TestMillion kills a stoker in the middle of a batch of a million lines. The figures say how soon the next one records
// answers again, how many lines it repeats, and how much memory both took.
func TestMillion(t *testing.T) {
	began := time.Now()
	b := &bulk{home: rig.NewHome(t, rig.Released, "[inbox]\nready = \"rename\"\n[engine]\nkind = \"echo\"\n"), lines: million}
	if testing.Short() {
		b.lines = millionShort
	}
	b.drop(t)
	b.home.Start()
	if err := b.await("half of the answers", func() bool { return b.completed() >= b.lines/2 }); err != nil {
		t.Fatal(err)
	}
	b.kill()
	if b.home.Idle() {
		t.Fatal("the kill came too late: the batch had ended")
	}
	before := b.journal(t)
	b.home.Start()
	started := time.Now()
	if err := b.await("a new answer", func() bool { return b.journal(t) > before }); err != nil {
		t.Fatal(err)
	}
	again := time.Since(started)
	if err := b.await("the end", b.home.Idle); err != nil {
		t.Fatal(err)
	}
	b.measure()
	if err := b.home.Stop(); err != nil {
		t.Error(err)
	}
	v, err := b.home.Verify()
	if err != nil {
		t.Error(err)
	}
	if v.Redone > mayRepeat {
		t.Errorf("I9: %d lines redone, at most %d were in flight or not written yet", v.Redone, mayRepeat)
	}
	tally := b.judge(t)
	figures.Report(t, figures.Figures{
		Suite: "kill -9 in a large batch", Count: 1, Lost: tally.Lost, Doubled: tally.Doubled, Redone: int(v.Redone),
		Note:    fmt.Sprintf("%d lines; first new record %.2f s after the start; daemon's memory at most %d MiB", b.lines, again.Seconds(), b.memory>>20),
		Seconds: int(time.Since(began).Seconds()),
	})
}

// bulk is a stoker with one large batch.
type bulk struct {
	home   *rig.Home
	lines  int
	memory int64 // the most that a daemon had in use
}

func prompt(i int) string { return fmt.Sprintf("question number %d", i) }

// drop writes the batch without holding it in memory.
func (b *bulk) drop(t *testing.T) {
	f, err := os.Create(b.home.Path("large.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := bufio.NewWriter(f)
	for i := range b.lines {
		fmt.Fprintf(w, "{\"custom_id\":\"%d\",\"prompt\":%q}\n", i, prompt(i))
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(f.Name(), b.home.Path("inbox/large.jsonl")); err != nil {
		t.Fatal(err)
	}
}

// patience is how long a large batch may make no progress, on a machine that runs other tests, too.
const patience = 10 * time.Minute

func (b *bulk) await(what string, so func() bool) error {
	for end := time.Now().Add(patience); !so(); time.Sleep(5 * time.Millisecond) {
		if b.home.Dead() || time.Now().After(end) {
			return fmt.Errorf("waited in vain for %s\n%s", what, b.home.Log())
		}
	}
	return nil
}

// completed is how many answers the daemon says that it has recorded.
func (b *bulk) completed() int {
	s, _ := rig.Report[struct {
		Dispatch struct{ Totals struct{ Completed int } }
	}](b.home, "status")
	return s.Dispatch.Totals.Completed
}

// kill ends the daemon's life, and takes down how much memory it took.
func (b *bulk) kill() {
	b.measure()
	b.home.Kill()
}

// journal is how long the batch's journal is. A new daemon's first answer makes it longer than the one that died left it.
func (b *bulk) journal(t *testing.T) int64 {
	for _, path := range rig.Glob(t, b.home.Path(".state/batches/*/journal")) {
		if st, err := os.Stat(path); err == nil {
			return st.Size()
		}
	}
	return 0
}

var peak = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// measure reads from the kernel how much memory the daemon had in use at most.
func (b *bulk) measure() {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.home.Daemon.Process.Pid))
	if m := peak.FindSubmatch(status); m != nil {
		kib, _ := strconv.ParseInt(string(m[1]), 10, 64)
		b.memory = max(b.memory, kib<<10)
	}
}

// judge reads the result line by line: each answer must be there once, in order.
func (b *bulk) judge(t *testing.T) (tally rig.Tally) {
	f, err := os.Open(b.home.Path("outbox/large.output.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	count := make([]uint8, b.lines)
	scanner, n, misplaced := bufio.NewScanner(f), 0, 0
	for ; scanner.Scan(); n++ {
		var r struct {
			ID       string `json:"custom_id"`
			Response string `json:"response"`
		}
		if err := json.Unmarshal(scanner.Bytes(), &r); err != nil {
			t.Fatalf("line %d: %v", n+1, err)
		}
		i, err := strconv.Atoi(r.ID)
		if err != nil || i < 0 || i >= b.lines || r.Response != prompt(i) {
			t.Fatalf("line %d is nobody's answer: %s", n+1, bytes.TrimSpace(scanner.Bytes()))
		}
		if i != n {
			misplaced++
		}
		count[i]++
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	for _, c := range count {
		switch c {
		case 0:
			tally.Lost++
		default:
			tally.Doubled += int(c) - 1
		}
	}
	if tally != (rig.Tally{}) || misplaced > 0 {
		t.Errorf("I1: %d lines lost, %d doubled, %d out of order", tally.Lost, tally.Doubled, misplaced)
	}
	if err := b.home.JudgeLeftovers(); err != nil {
		t.Error(err)
	}
	return tally
}
