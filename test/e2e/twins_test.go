package e2e

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// newTwins are two stokers with an inbox, an outbox and an archive in common, and a state for each.
func newTwins(t *testing.T) (a, b *home) {
	a = newHome(t, released, config)
	twin := *a
	b = &twin
	t.Cleanup(b.kill)
	for name, h := range map[string]*home{"a": a, "b": b} {
		h.flags = []string{"--config", h.path(name + ".toml")}
		h.write(name+".toml", fmt.Sprintf("[paths]\ninbox = \"inbox\"\noutbox = \"outbox\"\narchive = \"archive\"\nstate = %q\n[api]\nsocket = %q\n%sdelay = \"1s\"\n",
			"state-"+name, name+".sock", config))
	}
	return a, b
}

// TestTwoStokersShareAnInbox proves that each file runs once, and that the claims of one that died are left to it.
func TestTwoStokersShareAnInbox(t *testing.T) {
	t.Parallel()
	a, b := newTwins(t)
	a.start()
	b.start()
	if err := errors.Join(a.awaitAnswer(), b.awaitAnswer()); err != nil {
		t.Fatal(err)
	}
	s, _ := report[status](a, "status")
	claims := func() []string { return glob(t, a.path("inbox/.processing", s.Instance, "batch_*/*")) }
	var inputs []input
	err := a.await("a claim", func() bool { // of many files, in case b is always faster
		in := input{name: fmt.Sprintf("f%d.jsonl", len(inputs)), lines: good("f", 5)}
		inputs = append(inputs, in)
		a.drop(in.name, in.content())
		return len(inputs) >= 40 && len(claims()) > 0
	})
	if err != nil {
		t.Fatal(err)
	}
	a.kill()
	held := claims()
	if err := b.await("the end of all that a does not hold", func() bool {
		return len(glob(t, b.path("inbox/.processing/*/batch_*/*")))+len(glob(t, b.path("inbox/*.jsonl"))) == len(held)
	}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(held, claims()); diff != "" {
		t.Errorf("b touched a's claims:\n%s", diff)
	}
	folders := len(glob(t, a.path("inbox/.processing", s.Instance, "batch_*"))) // one may be empty: it died in the middle of a claim
	if s, _ := report[status](b, "status"); len(s.Inbox.Foreign) != 1 || s.Inbox.Foreign[0].Claims != folders {
		t.Errorf("b's status tells of %+v, a holds %d claims", s.Inbox.Foreign, folders)
	}
	a.start()
	if err := errors.Join(a.awaitIdle(), a.stop(), b.stop()); err != nil {
		t.Error(err)
	}
	va, errA := a.verify()
	vb, errB := b.verify()
	t.Logf("a ran %d files, b %d", va.Batches, vb.Batches)
	if va.Batches+vb.Batches != len(inputs) {
		t.Errorf("a ran %d files and b %d of %d", va.Batches, vb.Batches, len(inputs))
	}
	if err := errors.Join(errA, errB, a.judge(inputs...)); err != nil {
		t.Error(err)
	}
}
