package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"stoker/test/rig"
)

// What a file costs beside its requests, and that a pile of files makes none of them dearer: from the start of the daemon
// on an inbox that holds them all until the last one is archived. Beside it stands how often the disk can sync.
func BenchmarkManyFiles(b *testing.B) {
	for _, n := range []int{1000, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var cpu time.Duration
			for range b.N {
				cpu += runFiles(b, homeOf(b, n), n)
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "files/s")
			b.ReportMetric(cpu.Seconds()*1000/float64(n*b.N), "CPU-ms/file")
			b.ReportMetric(syncRate(b), "disk-syncs/s")
		})
	}
}

// How many syncs and commits a file costs, as strace sees them. They are the fewer the slower the disk is: who waits for one
// shares the next. SYNC_DELAY, in microseconds, makes each take longer.
func BenchmarkSyncsOfManyFiles(b *testing.B) {
	const n = 400
	var syncs, commits int
	for range b.N {
		h := homeOf(b, n)
		seen := h.Path("syncs")
		h.Under = []string{"strace", "--daemonize", "-f", "--detach-on=execve", "-qqq", "-y", "-o", seen, "-e", "trace=fsync,fdatasync"}
		if delay := os.Getenv("SYNC_DELAY"); delay != "" {
			h.Under = append(h.Under, "-e", "inject=fsync,fdatasync:delay_exit="+delay)
		}
		runFiles(b, h, n)
		raw, err := os.ReadFile(seen)
		if err != nil {
			b.Fatal(err)
		}
		database := 0
		for line := range strings.Lines(string(raw)) {
			if strings.Contains(line, "sync(") { // not the end of one that another thread interrupted
				syncs++
				if strings.Contains(line, "/stoker.db>") {
					database++
				}
			}
		}
		commits += database / 2 // one of its pages, one of the page that points to them
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "files/s")
	b.ReportMetric(float64(syncs)/float64(n*b.N), "syncs/file")
	b.ReportMetric(float64(commits)/float64(n*b.N), "commits/file")
}

// homeOf is a home whose inbox holds files of 10 requests.
func homeOf(b *testing.B, n int) *rig.Home {
	b.StopTimer()
	defer b.StartTimer()
	h := rig.NewHome(b, rig.Released, rig.Config)
	for i := range n {
		in := rig.Input{Name: fmt.Sprintf("%d.jsonl", i), Lines: rig.Good(fmt.Sprint(i), 10)}
		h.Drop(in.Name, in.Content())
	}
	return h
}

// runFiles lets a daemon deal with them, and returns the CPU time that it took.
func runFiles(b *testing.B, h *rig.Home, n int) time.Duration {
	h.Start()
	for !h.Idle() {
		if h.Dead() {
			b.Fatal(h.Log())
		}
		time.Sleep(200 * time.Millisecond)
	}
	b.StopTimer()
	defer b.StartTimer()
	end, err := h.Terminate()
	if err != nil || end.ExitCode() != 0 {
		b.Fatal(end, err)
	}
	if found := len(rig.Glob(b, h.Path("outbox/*.batch.json"))); found != n {
		b.Fatalf("%d of %d files have results", found, n)
	}
	if _, err := h.Verify(); err != nil {
		b.Fatal(err)
	}
	return end.UserTime() + end.SystemTime()
}

// syncRate is how many times a second a small append can be synced.
func syncRate(b *testing.B) float64 {
	b.StopTimer()
	defer b.StartTimer()
	f, err := os.Create(filepath.Join(b.TempDir(), "appended"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	const syncs = 500
	began := time.Now()
	for range syncs {
		if _, err := f.WriteString("a line\n"); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	return syncs / time.Since(began).Seconds()
}

// What a warm stoker adds to a small file beside the time that the inbox waits for it to settle: from the rename into the inbox
// until the first answer is in the journal, and until the results are in the outbox.
func BenchmarkWarmFile(b *testing.B) {
	const settle = 2 * time.Second // the default
	h := rig.NewHome(b, rig.Released, "[engine]\nkind = \"echo\"\n")
	h.Start()
	warmUp := rig.Input{Name: "warm-up.jsonl", Lines: rig.Good("w", 10)}
	h.Drop(warmUp.Name, warmUp.Content())
	if err := h.AwaitIdle(); err != nil {
		b.Fatal(err)
	}
	inputs := []rig.Input{warmUp}
	var first, published time.Duration
	for i := 0; b.Loop(); i++ {
		in := rig.Input{Name: fmt.Sprintf("f%d.jsonl", i), Lines: rig.Good(fmt.Sprint(i), 10)}
		inputs = append(inputs, in)
		known := journals(h)
		began := time.Now()
		h.Drop(in.Name, in.Content())
		await(b, func() bool { return journals(h) > known })
		first += time.Since(began)
		await(b, func() bool { return exists(h.Path("outbox", fmt.Sprintf("f%d.batch.json", i))) })
		published += time.Since(began)
	}
	b.ReportMetric((first-time.Duration(b.N)*settle).Seconds()*1000/float64(b.N), "first-answer-ms")
	b.ReportMetric((published-time.Duration(b.N)*settle).Seconds()*1000/float64(b.N), "results-ms")
	if err := h.End(inputs...); err != nil {
		b.Fatal(err)
	}
}

// journals counts those that have more than their head and a frame that is none of an answer.
func journals(h *rig.Home) (n int) {
	const noAnswer = 200
	paths, _ := filepath.Glob(h.Path(".state", "batches", "*", "journal"))
	for _, path := range paths {
		if st, err := os.Stat(path); err == nil && st.Size() > noAnswer {
			n++
		}
	}
	return n
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// await looks more often than the rig does: what is measured takes about a tenth of a second.
func await(b *testing.B, so func() bool) {
	for end := time.Now().Add(rig.Deadline); !so(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.Fatal("waited in vain")
		}
	}
}
