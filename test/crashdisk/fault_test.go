//go:build disk

package crashdisk

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"stoker/test/figures"
	"stoker/test/rig"
)

// TestBrokenDisk has the disk refuse writes and flushes in the middle of the work. Nobody knows then what it holds: the
// daemon must end and say why, and so must the next one on what has become a read-only file system. Once the disk is well
// again the work goes to its end.
func TestBrokenDisk(t *testing.T) {
	began := time.Now()
	const breaks = 5
	chance := rig.Random(t)
	m := newMachine(t, kinds["ext4"], oneDisk)
	if err := m.mount(); err != nil {
		t.Fatal(err)
	}
	h := m.home(t, rig.Released)
	inputs := []rig.Input{{Name: "large.jsonl", Lines: rig.Good("large", 20_000)}} // runs through all breaks
	if err := m.drop(inputs[0]); err != nil {
		t.Fatal(err)
	}
	for i := range breaks {
		in := rig.Input{Name: fmt.Sprintf("day/small-%d.jsonl", i), Lines: append(rig.Good(fmt.Sprint("small-", i), 20), rig.Bad(fmt.Sprint("small-", i))...)}
		inputs = append(inputs, in)
		if err := m.drop(in); err != nil {
			t.Fatal(err)
		}
		h.Start()
		// A daemon that does not write to its state has no reason to end.
		if err := h.Await("a batch that runs", func() bool { return running(h) }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(chance.Int64N(int64(700 * time.Millisecond))))
		if err := breakDisk(m, h); err != nil {
			t.Fatal(err)
		}
	}
	h.Start()
	if err := h.End(inputs...); err != nil {
		t.Error(err)
	}
	tally, err := h.Tally(inputs...)
	if err = errors.Join(err, m.unmount()); err != nil {
		t.Error(err)
	}
	figures.Report(t, figures.Figures{
		Suite: "broken disk", Count: breaks, Lost: tally.Lost, Doubled: tally.Doubled, Seconds: int(time.Since(began).Seconds()),
	})
}

func running(h *rig.Home) bool {
	s, _ := rig.Report[rig.Status](h, "status")
	return len(s.Dispatch.Running) > 0
}

// breakDisk breaks the disk under a daemon, starts another one on it, and mends it.
func breakDisk(m *machine, h *rig.Home) error {
	if err := m.rack.Fail(true); err != nil {
		return err
	}
	if err := ends(h); err != nil {
		return fmt.Errorf("when the disk breaks: %w", err)
	}
	h.Start()
	if err := ends(h); err != nil {
		return fmt.Errorf("on a broken disk: %w", err)
	}
	return errors.Join(m.unmount(), m.rack.Fail(false), m.mount())
}

// ends waits until the daemon ends by itself, which it must not do with 0, nor without saying what the disk does.
func ends(h *rig.Home) error {
	if err := h.Await("the daemon's end", h.Dead); err != nil {
		return err
	}
	code := h.Daemon.ProcessState.ExitCode()
	said, err := os.ReadFile(h.Output)
	if err != nil {
		return err
	}
	if left := h.Processes(); code <= 0 || len(left) > 0 || !disksFault.Match(said) {
		return fmt.Errorf("exit code %d, processes left: %v\n%s", code, left, said)
	}
	return os.Truncate(h.Output, 0)
}

var disksFault = regexp.MustCompile("input/output error|read-only")

const (
	// fullVar names the environment variable that says for how many seconds a disk stays full.
	fullVar = "CRASHDISK_FULL_SECONDS"
	// smallDisk has room for the work, and not for much more.
	smallDisk = 16 << 20
)

// TestFullDisk fills the disk in the middle of the work, and makes room later. Meanwhile the daemon waits, and says for
// what and for how much; then it goes on by itself.
func TestFullDisk(t *testing.T) {
	began := time.Now()
	full := 3 * time.Second
	if s := os.Getenv(fullVar); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		full = time.Duration(n) * time.Second
	}
	m := newMachine(t, kinds["ext4"], oneDisk, smallDisk)
	if err := m.mount(); err != nil {
		t.Fatal(err)
	}
	h := m.home(t, rig.Released)
	inputs := []rig.Input{{Name: "large.jsonl", Lines: rig.Good("large", 3000)}, {Name: "day/late.jsonl", Lines: rig.Good("late", 20)}}
	h.Drop(inputs[0].Name, inputs[0].Content())
	h.Start()
	if err := h.Await("durable records", func() bool { return strings.Contains(said(h), kept) }); err != nil {
		t.Fatal(err)
	}
	h.Drop(inputs[1].Name, inputs[1].Content())
	zeros, err := fill(h)
	if err != nil {
		t.Fatal(err)
	}
	needs := regexp.MustCompile(`(full|space|room)[^\n]*[0-9.]+ [KMG]?i?B`)
	var status string
	if err := h.Await("status to say how much space is needed", func() bool {
		status, _ = h.Stoker("status")
		return needs.MatchString(status)
	}); err != nil {
		t.Errorf("%v\nstatus:\n%s", err, status)
	}
	time.Sleep(full)
	if h.Dead() {
		t.Fatalf("the daemon did not wait\n%s", h.Log())
	}
	if err := os.Remove(zeros); err != nil {
		t.Fatal(err)
	}
	if err := h.End(inputs...); err != nil {
		t.Error(err)
	}
	tally, err := h.Tally(inputs...)
	if err = errors.Join(err, m.unmount()); err != nil {
		t.Error(err)
	}
	figures.Report(t, figures.Figures{
		Suite: "full disk", Count: 1, Lost: tally.Lost, Doubled: tally.Doubled, Note: fmt.Sprintf("for %s", full), Seconds: int(time.Since(began).Seconds()),
	})
}

// said is all that the daemon said.
func said(h *rig.Home) string {
	b, _ := os.ReadFile(h.Output)
	return string(b)
}

// fill writes zeros until the disk takes no more.
func fill(h *rig.Home) (path string, err error) {
	path = h.Path("zeros")
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	for _, size := range []int{1 << 20, 4 << 10} {
		for err = nil; err == nil; _, err = f.Write(make([]byte, size)) {
		}
		if !errors.Is(err, unix.ENOSPC) {
			return "", err
		}
	}
	return path, nil
}
