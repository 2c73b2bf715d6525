//go:build real

package real

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"stoker/test/figures"
)

const gib = 1 << 30

// TestMemory runs stoker where memory is scarce. Another program takes so much that the kernel kills vLLM's EngineCore in
// the middle of a batch, and then there is too little to load the model again. Status says both; the daemon lives; and
// when the memory is free, the batch goes on by itself.
//
// With 1 GiB of KV cache the engine takes 2.7 GiB in the end, and 1.6 GiB before it asks for the cache (measured; files
// that the kernel may drop come on top).
func TestMemory(t *testing.T) {
	t.Parallel()
	began := time.Now()
	g := newMemoryGroup(t, 4.5*gib)
	s := newService(t, "STOKER_ENGINE__IN_FLIGHT=16", fmt.Sprintf("STOKER_ENGINE__ARGS__KV_CACHE_MEMORY_BYTES=%d", gib))
	s.enclose = func(cmd *exec.Cmd) *exec.Cmd { return g.enclose(cmd) }
	lines, ids := requests("memory", 100)
	s.drop("memory.jsonl", lines)
	s.start()
	s.awaitDone(10)

	free := g.hog(5 * gib / 2)
	killed := s.awaitReason("the kernel killed it because memory ran out")
	t.Logf("killed: %s; hint: %s", killed.Engine.Reason, killed.Engine.Hint)
	redone := s.redone()

	short := s.awaitReason("too little free memory on node 0: 1.00 GiB needed, ")
	t.Logf("short: %s; hint: %s", short.Engine.Reason, short.Engine.Hint)
	if short.Engine.State != "back_off" || short.Engine.Shortage.Free >= gib || short.Engine.Shortage.Total != 4.5*gib {
		t.Errorf("the wait for memory is %+v", short.Engine)
	}
	if out, err := s.command("status").CombinedOutput(); err != nil || !strings.Contains(string(out), "too little free memory") {
		t.Errorf("status: %v\n%s", err, out)
	}

	free()
	s.awaitEnded("memory")
	lost, doubled := s.outcome("memory", ids)
	s.verify()
	s.stop()
	figures.Report(t, figures.Figures{
		Suite: "vLLM without memory", Count: 2, Lost: lost, Doubled: doubled, Redone: redone, Seconds: int(time.Since(began).Seconds()),
		Note: "EngineCore killed by the kernel; too little memory to load again until it was freed",
	})
}
