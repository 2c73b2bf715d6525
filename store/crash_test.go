package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// crashingBatch is a batch under TestRandomCrashes, with what must not be lost.
type crashingBatch struct {
	*world
	*Batch
	requests int
	answers  map[uint32]string // what Append took
	durable  map[uint32]string // what a commit covers
	attempt  int
}

// TestRandomCrashes answers requests in random order, with random syncs and crashes that tear what is not synced. At the
// end every request has one record, and what a commit covered is what was published.
func TestRandomCrashes(t *testing.T) {
	root, runs := fastDir(t), 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		dir := func(life int) string { return filepath.Join(root, fmt.Sprintf("%d-%d", runs, life)) }
		c := &crashingBatch{requests: rapid.IntRange(1, 40).Draw(t, "requests"), answers: map[uint32]string{}, durable: map[uint32]string{}}
		c.world = newWorld(t, dir(0))
		id := c.admitLines(c.requests)
		c.Batch = c.world.open(id)
		lives := 0
		t.Repeat(map[string]func(*rapid.T){
			"answer": func(t *rapid.T) { c.answerOne(uint32(rapid.IntRange(0, c.requests-1).Draw(t, "seq"))) },
			"flush":  func(t *rapid.T) { must(t, c.Flush()) },
			"commit": func(t *rapid.T) { c.commitAll() },
			"crash": func(t *rapid.T) {
				if lives == 4 {
					t.Skip("enough crashes")
				}
				lives++
				c.crashAndOpen(t, dir(lives), rapid.IntRange(0, 3).Draw(t, "kind"), rapid.IntRange(0, 1000).Draw(t, "per mille"))
			},
		})
		must(t, c.Batch.Close())
		c.world.finish(id, life{inputOrder: true})
		c.checkClean()
		c.checkResults("x", c.requests, true)
		c.checkDurable()
		must(t, c.world.Close())
		must(t, os.RemoveAll(dir(lives)))
	})
}

func (c *crashingBatch) answerOne(seq uint32) {
	if c.Progress().Has(seq) {
		return
	}
	c.attempt++
	text := fmt.Sprint("attempt ", c.attempt)
	c.record(c.Batch, seq, text)
	c.answers[seq] = text
}

func (c *crashingBatch) commitAll() {
	c.world.commit(c.Batch)
	for seq, text := range c.answers {
		c.durable[seq] = text
	}
}

// crashAndOpen goes on from a copy whose unsynced part of the journal was torn.
func (c *crashingBatch) crashAndOpen(t *rapid.T, to string, kind, perMille int) {
	id, checked, from := c.Meta.ID, c.checkedBytes(), c.world.dir
	must(t, os.CopyFS(to, os.DirFS(from)))
	must(t, c.Batch.Close())
	must(t, c.world.Close())
	must(t, os.RemoveAll(from))
	c.world = newWorld(t, to)
	c.edit(c.path(id, journalFile), func(b []byte) []byte { return tear(b, checked, kind, perMille) })
	c.Batch = c.world.open(id)
	for seq := range c.durable {
		if !c.Progress().Has(seq) {
			t.Fatalf("the checkpointed record of request %d is lost", seq)
		}
	}
	for seq := range c.answers {
		if !c.Progress().Has(seq) {
			delete(c.answers, seq)
		}
	}
	c.commitAll() // what was adopted is no promise before
	if report := c.verify(); report.Broken() {
		t.Fatalf("verify found %+v", report.Findings)
	}
}

func (c *crashingBatch) checkedBytes() int {
	p, err := c.world.Progress(c.Meta.ID)
	must(c.world, err)
	return int(p.Offset)
}

// tear damages a journal behind its checked part, as a power cut does.
func tear(b []byte, checked, kind, perMille int) []byte {
	at := checked + (len(b)-checked)*perMille/1000
	switch kind {
	case 0: // only the process died
	case 1: // the file's end did not reach the disk
		return b[:at]
	case 2: // the size did, the contents did not
		clear(b[at:])
	case 3: // one sector did not
		clear(b[at:min(len(b), at+64)])
	}
	return b
}

func (c *crashingBatch) checkDurable() {
	output := strings.Join(c.resultLines("x", SuffixOutput), "")
	for seq, text := range c.durable {
		if !strings.Contains(output, fmt.Sprintf(`"custom_id":"r%d","response":%q`, seq, text)) {
			c.world.Fatalf("the checkpointed answer %q of request %d was not published:\n%s", text, seq, output)
		}
	}
}
