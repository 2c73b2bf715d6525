//go:build packages

package packages

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestOperations runs the commands of docs/operations.md, word for word and in its order. Those without sudo are a user's.
func TestOperations(t *testing.T) {
	c := newContainer(t)
	c.boot()
	deb := artefact(t, "*_amd64.deb")
	c.copyIn(deb, "/root/"+filepath.Base(deb), 0o644)
	c.run("useradd --create-home alice")
	for _, block := range commandsOf(t, "../../docs/operations.md") {
		t.Log(block)
		if strings.Contains(block, "sudo ") {
			c.run("cd /root && set -e\n" + block)
			continue
		}
		c.write("/home/alice/block", "set -e\n"+block, 0o755)
		c.says("runuser -u alice -- sh /home/alice/block", "daemon   running")
		c.awaitFile("/srv/stoker/outbox/questions.batch.json")
		c.says("cat /srv/stoker/outbox/questions.output.jsonl", "What is the capital of France?")
		testUnreadable(c)
	}
	// The folder that is open to its group only is so after purge, too, and holds what was answered.
	c.says("stat -c %a /srv/stoker/outbox", "2770")
	c.exists("/srv/stoker/outbox/questions.output.jsonl")
	c.gone("/usr/bin/stoker", "/var/lib/stoker", "/etc/stoker")
}

// testUnreadable: what stoker may not read waits, and runs once it may.
func testUnreadable(c *container) {
	c.t.Helper()
	c.run(`runuser -u alice -- sh -c 'umask 077; echo "{\"prompt\":\"x\"}" > /srv/stoker/inbox/closed.jsonl'`)
	c.await("the reason", func() bool {
		out := c.run("stoker status")
		return strings.Contains(out, "closed") && strings.Contains(out, "permission denied")
	})
	c.run("find /srv/stoker/inbox -name closed.jsonl -exec chmod 0660 {} +")
	c.awaitFile("/srv/stoker/outbox/closed.batch.json")
	c.answersText("/srv/stoker/outbox/closed.output.jsonl", "x")
}

func (c *container) answersText(path, want string) {
	c.t.Helper()
	if text := c.read(path); strings.Count(text, "\n") != 1 || !strings.Contains(text, `"response":"`+want+`"`) {
		c.t.Errorf("%s: %s", path, text)
	}
}

var shellBlock = regexp.MustCompile("(?ms)^( *)```sh\n(.*?)^ *```$")

// commandsOf returns the shell's blocks of a page.
func commandsOf(t *testing.T, page string) []string {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, m := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, strings.ReplaceAll("\n"+m[2], "\n"+m[1], "\n"))
	}
	if len(blocks) < 10 {
		t.Fatalf("%s has %d blocks of commands", page, len(blocks))
	}
	return blocks
}
