package config

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"stoker/store/layout"
)

const (
	// maxMaxLine bounds inbox.max_line: a line is held in memory, several at a time.
	maxMaxLine = 1 << 30
	// maxGivenSocket is what fits the kernel's sun_path with its final zero (unix(7)).
	maxGivenSocket = 107
)

// checks collects the values that are of the right type but impossible. What did not bind still has its default, so one
// mistake is not told twice.
type checks struct {
	loaded *Loaded
	errs   Errors
}

func (c *checks) run() {
	c.paths()
	c.inboxAndOutbox()
	c.engine()
	c.requestDefaults(key{"defaults"}, c.loaded.Defaults)
	c.queues()
	c.log()
}

// refuse notes that the value of k is impossible.
func (c *checks) refuse(k key, hint, format string, args ...any) {
	from := c.loaded.Origin(k.String())
	c.errs = append(c.errs, from.refuse(k, &badValue{message: fmt.Sprintf(format, args...), hint: hint}))
}

func (c *checks) paths() {
	p := c.loaded.Paths
	folders := []struct{ name, path string }{
		{"inbox", p.Inbox}, {"outbox", p.Outbox}, {"archive", p.Archive}, {"state", p.State},
	}
	for i, folder := range folders {
		k := key{"paths", folder.name}
		if folder.path == "" {
			c.refuse(k, "", "want a folder, got an empty string")
			continue
		}
		for _, other := range folders[:i] {
			if hint, clash := clash(folder.name, folder.path, other.name, other.path); clash != "" {
				c.refuse(c.culprit(k, key{"paths", other.name}), hint, "%s", clash)
			}
		}
	}
	if socket := c.loaded.API.Socket; len(socket) > maxGivenSocket {
		c.refuse(key{"api", "socket"}, "choose a shorter path, or leave it empty",
			"a socket's path holds %d bytes, this one has %d", maxGivenSocket, len(socket))
	}
}

// culprit picks the one of two clashing settings that the user has set, the later one if both or neither are.
func (c *checks) culprit(later, earlier key) key {
	if c.loaded.Origin(later.String()).Source == FromDefault {
		return earlier
	}
	return later
}

// clash says why two folders cannot go together. Nothing may lie in the inbox, where every folder is a queue, nor in
// the outbox and archive, where every folder is a queue's results, nor in the state folder, which is stoker's alone.
func clash(name, path, other, otherPath string) (hint, message string) {
	hint = "give inbox, outbox, archive and state a folder each, none inside another"
	switch {
	case path == otherPath:
		return hint, fmt.Sprintf("%s and %s are the same folder, %s", name, other, path)
	case isInside(path, otherPath):
		return hint, fmt.Sprintf("%s (%s) lies inside %s (%s)", name, path, other, otherPath)
	case isInside(otherPath, path):
		return hint, fmt.Sprintf("%s (%s) lies inside %s (%s)", other, otherPath, name, path)
	}
	return "", ""
}

// isInside compares by name only: folders need not exist yet, and symbolic links are the user's business.
func isInside(path, folder string) bool {
	rest, err := filepath.Rel(folder, path)
	return err == nil && rest != ".." && !strings.HasPrefix(rest, "../")
}

func (c *checks) inboxAndOutbox() {
	l := c.loaded
	c.positive(key{"inbox", "rescan"}, l.Inbox.Rescan)
	c.positive(key{"inbox", "poll"}, l.Inbox.Poll)
	if l.Inbox.MaxLine < 1 || l.Inbox.MaxLine > maxMaxLine {
		c.refuse(key{"inbox", "max_line"}, "", "want 1B to %s, got %s", Size(maxMaxLine), l.Inbox.MaxLine)
	}
	// stoker reads what it has published: to verify it, and to find out about files that are dropped back.
	if l.Outbox.Mode&0o400 == 0 {
		c.refuse(key{"outbox", "mode"}, "", "want the owner to be able to read, like \"0664\", got %q", l.Outbox.Mode)
	}
}

func (c *checks) positive(k key, d Duration) {
	if d <= 0 {
		c.refuse(k, "", "want a duration over 0s, got %q", d)
	}
}

func (c *checks) queues() {
	for _, name := range sortedNames(c.loaded.Queue) {
		k := key{"queue", name}
		if !layout.IsQueue(name) {
			c.refuse(k, "a queue is named as its folder in the inbox", "%q cannot be a queue's folder", name)
		}
		c.requestDefaults(k.child("defaults"), c.loaded.Queue[name].Defaults)
	}
}

func (c *checks) log() {
	words := []string{"debug", "info", "warn", "error"}
	if level := c.loaded.Log.Level; !slices.Contains(words, level) {
		bad := notAWord(level, words)
		c.refuse(key{"log", "level"}, bad.hint, "%s", bad.message)
	}
}

// requestDefaults checks a table of parameters for requests. The engine judges those that are not named here.
func (c *checks) requestDefaults(k key, params map[string]any) {
	for _, name := range sortedNames(params) {
		member, value := k.child(name), params[name]
		switch name {
		case "stream", "stream_options":
			c.refuse(member, "remove it", "answers are written to files, not streamed")
		case "model":
			c.refuse(member, "set `engine.model`", "the model is the engine's, not a request's")
		case "messages", "prompt", "input", "raw", "custom_id", "method", "url", "body", "metadata":
			c.refuse(member, "remove it", "belongs in each line of a batch, it cannot have a default")
		default:
			c.requestParameter(member, name, value)
		}
	}
}

func (c *checks) requestParameter(k key, name string, value any) {
	number, isNumber := asNumber(value)
	_, isInteger := value.(int64)
	want := ""
	switch name {
	case "temperature":
		if !isNumber || !(number >= 0) {
			want = "a number of 0 or more"
		}
	case "top_p":
		if !isNumber || !(number > 0 && number <= 1) {
			want = "a number over 0, up to 1"
		}
	case "max_tokens", "max_completion_tokens", "n":
		if !isInteger || number < 1 {
			want = "an integer of 1 or more"
		}
	case "system":
		if _, ok := value.(string); !ok {
			want = "a string"
		}
	}
	if want != "" {
		c.refuse(k, "", "want %s, got %s", want, describe(value))
		return
	}
	c.json(k, value)
}

// json refuses what has no form in JSON, which is how parameters and arguments travel.
func (c *checks) json(k key, value any) {
	switch v := value.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			c.refuse(k, "", "want a finite number, got %v", v)
		}
	case []any:
		for _, item := range v {
			c.json(k, item)
		}
	case map[string]any:
		for _, name := range sortedNames(v) {
			c.json(k.child(name), v[name])
		}
	default:
		if isTime(value) {
			c.refuse(k, "put it in quotes", "want a value that JSON has too, got a date or time")
		}
	}
}

func asNumber(value any) (float64, bool) {
	switch v := value.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

// describe tells a number itself and of all else the kind.
func describe(value any) string {
	switch v := value.(type) {
	case int64:
		return strconv.FormatInt(v, 10)
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64)
	}
	return kindOf(value)
}
