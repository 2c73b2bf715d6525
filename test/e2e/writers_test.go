package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestGrowing proves that a file is taken whole, however slowly and with whatever pauses inside a line it is written.
func TestGrowing(t *testing.T) {
	t.Parallel()
	h := newHome(t, released, strings.Replace(config, `tail_grace = "500ms"`, `tail_grace = "30s"`, 1))
	in := input{name: "slow.jsonl", lines: good("slow", 8)}
	h.start()
	f, err := os.Create(h.path("inbox", in.name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for part := range strings.SplitAfterSeq(in.content(), " says") { // in the middle of a line
		if _, err := f.WriteString(part); err != nil {
			t.Fatal(err)
		}
		time.Sleep(250 * time.Millisecond) // the settle time is 100 ms
	}
	if err := h.end(in); err != nil {
		t.Error(err)
	}
}

// TestReplacedAndVanished proves that only what lies in the inbox when a file has settled is taken.
func TestReplacedAndVanished(t *testing.T) {
	t.Parallel()
	h := newHome(t, released, "[inbox]\nsettle = \"4s\"\nrescan = \"200ms\"\n[engine]\nkind = \"echo\"\n")
	h.start()
	if err := h.awaitAnswer(); err != nil {
		t.Fatal(err)
	}
	first, second := input{name: "x.jsonl", lines: good("first", 3)}, input{name: "x.jsonl", lines: good("second", 3)}
	gone := input{name: "gone.jsonl", lines: good("gone", 3)}
	h.drop(first.name, first.content())
	h.drop(gone.name, gone.content())
	h.awaitState("settling", 2)
	h.drop(second.name, second.content())
	if err := os.Remove(h.path("inbox", gone.name)); err != nil {
		t.Fatal(err)
	}
	if err := h.end(second); err != nil {
		t.Error(err)
	}
}

// awaitState waits until this many files of the inbox are in a state.
func (h *home) awaitState(state string, n int) (reason string) {
	h.t.Helper()
	err := h.await(fmt.Sprintf("%d files %s", n, state), func() bool {
		found := 0
		s, _ := report[status](h, "status")
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

// TestUnreadable proves that a file which may not be read waits, in words, until it may.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	h := newHome(t, released, config)
	if os.Geteuid() == 0 {
		h.giveTo(65534) // nobody: the superuser may read everything
	}
	in := input{name: "secret.jsonl", lines: good("secret", 3)}
	h.drop(in.name, in.content())
	if err := os.Chmod(h.path("inbox", in.name), 0); err != nil {
		t.Fatal(err)
	}
	h.start()
	if reason := h.awaitState("waiting", 1); !strings.Contains(reason, "permission denied") {
		t.Errorf("it waits because %q", reason)
	}
	if err := os.Chmod(h.path("inbox", in.name), 0o444); err != nil {
		t.Fatal(err)
	}
	if err := h.end(in); err != nil {
		t.Error(err)
	}
}

// giveTo makes the home another user's, who runs stoker then.
func (h *home) giveTo(id uint32) {
	h.t.Helper()
	h.user = &syscall.Credential{Uid: id, Gid: id}
	err := filepath.Walk(h.dir, func(path string, _ os.FileInfo, err error) error {
		return errors.Join(err, os.Chown(path, int(id), int(id)))
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// TestChangedAfterClaim proves that a batch is what the file was when it was claimed, and says that it changed.
func TestChangedAfterClaim(t *testing.T) {
	t.Parallel()
	h := newHome(t, released, config+"delay = \"4s\"\n")
	in := input{name: "x.jsonl", lines: good("x", 3)}
	h.start()
	if err := h.awaitAnswer(); err != nil {
		t.Fatal(err)
	}
	h.drop(in.name, in.content())
	if err := h.await("requests in flight", func() bool { s, _ := report[status](h, "status"); return s.Engine.InFlight == 3 }); err != nil {
		t.Fatal(err)
	}
	claimed := glob(t, h.path("inbox/.processing/*/*/x.jsonl"))
	f, err := os.OpenFile(claimed[0], os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("{\"prompt\":\"late\"}\n"); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if err := errors.Join(h.awaitIdle(), h.stop()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.verify(); err != nil {
		t.Error(err)
	}
	if err := h.judgeBatch(&in, h.path("outbox/x"), map[string]bool{}); err != nil {
		t.Error(err)
	}
	if object, err := os.ReadFile(h.path("outbox/x.batch.json")); err != nil || !strings.Contains(string(object), `"changed_after_claim": true`) {
		t.Errorf("the batch object does not tell of the change: %v", err)
	}
}

// TestLongLine proves that a line over max_line costs itself, however long it is.
func TestLongLine(t *testing.T) {
	t.Parallel()
	h := newHome(t, released, config)
	huge := line{raw: `{"custom_id":"huge","prompt":"` + strings.Repeat("x", 20<<20) + `"}`, id: "huge", code: "line_too_long"}
	in := input{name: "huge.jsonl", lines: concat(good("a", 2), []line{huge}, good("b", 2))}
	h.drop(in.name, in.content())
	h.start()
	if err := h.end(in); err != nil {
		t.Error(err)
	}
}
