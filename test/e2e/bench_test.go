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
