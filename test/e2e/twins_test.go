package e2e

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"stoker/test/rig"
)

// newTwins are two stokers with an inbox, an outbox and an archive in common, and a state for each.
func newTwins(t *testing.T) (a, b *rig.Home) {
	a = rig.NewHome(t, rig.Released, rig.Config)
	twin := *a
	b = &twin
	t.Cleanup(b.Kill)
	for name, h := range map[string]*rig.Home{"a": a, "b": b} {
		h.Flags = []string{"--config", h.Path(name + ".toml")}
		h.Write(name+".toml", fmt.Sprintf("[paths]\ninbox = \"inbox\"\noutbox = \"outbox\"\narchive = \"archive\"\nstate = %q\n[api]\nsocket = %q\n%sdelay = \"1s\"\n",
			"state-"+name, name+".sock", rig.Config))
	}
	return a, b
}

// TestTwoStokersShareAnInbox proves that each file runs once, and that the claims of one that died are left to it.
func TestTwoStokersShareAnInbox(t *testing.T) {
	t.Parallel()
	a, b := newTwins(t)
	a.Start()
	b.Start()
	if err := errors.Join(a.AwaitAnswer(), b.AwaitAnswer()); err != nil {
		t.Fatal(err)
	}
	s, _ := rig.Report[rig.Status](a, "status")
	claims := func() []string { return rig.Glob(t, a.Path("inbox/.processing", s.Instance, "batch_*/*")) }
	var inputs []rig.Input
	err := a.Await("a claim", func() bool { // of many files, in case b is always faster
		in := rig.Input{Name: fmt.Sprintf("f%d.jsonl", len(inputs)), Lines: rig.Good("f", 5)}
		inputs = append(inputs, in)
		a.Drop(in.Name, in.Content())
		return len(inputs) >= 40 && len(claims()) > 0
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Kill()
	held := claims()
	if err := b.Await("the end of all that a does not hold", func() bool {
		return len(rig.Glob(t, b.Path("inbox/.processing/*/batch_*/*")))+len(rig.Glob(t, b.Path("inbox/*.jsonl"))) == len(held)
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(held, claims()); diff != "" {
		t.Errorf("b touched a's claims:\n%s", diff)
	}
	if err := b.Await(fmt.Sprintf("b's status to tell of %d claims", len(held)), func() bool {
		s, _ := rig.Report[rig.Status](b, "status")
		return len(s.Inbox.Foreign) == 1 && s.Inbox.Foreign[0].Claims == len(held)
	}); err != nil {
		t.Error(err)
	}
	a.Start()
	if err := errors.Join(a.AwaitIdle(), a.Stop(), b.Stop()); err != nil {
		t.Error(err)
	}
	va, errA := a.Verify()
	vb, errB := b.Verify()
	t.Logf("a ran %d files, b %d", va.Batches, vb.Batches)
	if va.Batches+vb.Batches != len(inputs) {
		t.Errorf("a ran %d files and b %d of %d", va.Batches, vb.Batches, len(inputs))
	}
	if err := errors.Join(errA, errB, a.Judge(inputs...)); err != nil {
		t.Error(err)
	}
}
