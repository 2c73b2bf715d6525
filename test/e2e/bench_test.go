package e2e

import (
	"fmt"
	"testing"
	"time"

	"stoker/test/rig"
)

// What a file costs beside its requests, and that a pile of files makes none of them dearer: from the start of the daemon
// on an inbox that holds them all until the last one is archived.
func BenchmarkManyFiles(b *testing.B) {
	for _, n := range []int{1000, 4000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for range b.N {
				runFiles(b, n)
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "files/s")
		})
	}
}

func runFiles(b *testing.B, n int) {
	b.StopTimer()
	h := rig.NewHome(b, rig.Released, rig.Config)
	for i := range n {
		in := rig.Input{Name: fmt.Sprintf("%d.jsonl", i), Lines: rig.Good(fmt.Sprint(i), 10)}
		h.Drop(in.Name, in.Content())
	}
	b.StartTimer()
	h.Start()
	for !h.Idle() {
		if h.Dead() {
			b.Fatal(h.Log())
		}
		time.Sleep(200 * time.Millisecond)
	}
	b.StopTimer()
	if err := h.Stop(); err != nil {
		b.Fatal(err)
	}
	if found := len(rig.Glob(b, h.Path("outbox/*.batch.json"))); found != n {
		b.Fatalf("%d of %d files have results", found, n)
	}
	if _, err := h.Verify(); err != nil {
		b.Fatal(err)
	}
	b.StartTimer()
}
