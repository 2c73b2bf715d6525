//go:build disk

package crashdisk

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"stoker/store/durable"
	"stoker/test/crashdisk/disk"
	"stoker/test/rig"
)

// recording is one life of a daemon, with all that was written meanwhile and all that was promised.
type recording struct {
	Kind     string
	Layout   layout
	Drops    []drop
	Promises []promise
	Outbox   map[string]string // digests of the files in the end, by their names, which are unlike here
	rack     *disk.Rack
	length   int // of the log
}

// drop is a file that was put into the inbox: perhaps there after Begun events, surely after Done.
type drop struct {
	Input       rig.Input
	Begun, Done int
}

// promise is something that the daemon said only after it was durable, with the log's length when it was read.
type promise struct {
	At      int    `json:"at"`
	What    string `json:"message"`
	Batch   string `json:"batch"`
	Name    string `json:"name"`
	Records uint32 `json:"records"`
	Path    string `json:"path"`
}

// What the daemon says.
const (
	accepted = "batch is open"
	kept     = "records are durable"
	ended    = "batch has ended"
	archived = "input is archived"
	setAside = "same file as another batch; set aside"
)

// files are what is dropped in one life: two queues beside the inbox itself, lines that cost themselves, a file without
// a valid one, and small files between large ones.
func files() []rig.Input {
	all := []rig.Input{
		{Name: "large.jsonl", Lines: rig.Good("large", 2000)},
		{Name: "night/other.jsonl", Lines: rig.Good("other", 1200)},
		{Name: "bad.jsonl", Lines: rig.Bad("bad")},
	}
	for i := range 14 {
		in := rig.Input{Name: fmt.Sprintf("%ssmall-%d.jsonl", []string{"", "day/", "night/"}[i%3], i), Lines: rig.Good(fmt.Sprint("small-", i), 3+5*i)}
		if i%3 == 1 {
			in.Lines = append(in.Lines, rig.Bad(fmt.Sprint("small-", i))...)
		}
		all = append(all, in)
	}
	return all
}

// twin is dropped again while it runs.
func twin() rig.Input { return rig.Input{Name: "twin.jsonl", Lines: rig.Good("twin", 20)} }

// record has a daemon work on a new machine until all is done.
func record(t *testing.T, k kind, l layout, binary string, env ...string) (*recording, error) {
	m := newMachine(t, k, l)
	if err := m.mount(); err != nil {
		return nil, err
	}
	r := &recording{Kind: k.name, Layout: l, rack: m.rack}
	h := m.home(t, binary, env...)
	h.Start()
	defer h.Kill()
	done := make(chan error, 1)
	stop := make(chan struct{})
	go func() { done <- r.listen(h.Output, stop) }()
	err := r.work(m, h)
	close(stop)
	if err = errors.Join(err, <-done, r.readOutbox(m.dir)); err != nil {
		return nil, err
	}
	if err := m.unmount(); err != nil {
		return nil, err
	}
	r.length, err = m.rack.Length()
	return r, err
}

// between is the pause between two files.
const between = 100 * time.Millisecond

func (r *recording) work(m *machine, h *rig.Home) error {
	first := twin()
	for i, in := range files() {
		if err := r.drop(m, in); err != nil {
			return err
		}
		time.Sleep(between)
		if i != 5 && i != 6 {
			continue
		}
		gone := func() bool {
			_, err := os.Lstat(h.Path("inbox", first.Name))
			return errors.Is(err, fs.ErrNotExist)
		}
		if err := h.Await("room for the second copy", gone); err != nil {
			return err
		}
		if err := r.drop(m, first); err != nil {
			return err
		}
	}
	if err := h.AwaitIdle(); err != nil {
		return err
	}
	return h.Stop()
}

func (r *recording) drop(m *machine, in rig.Input) (err error) {
	d := drop{Input: in}
	if d.Begun, err = m.rack.Length(); err != nil {
		return err
	}
	if err := m.drop(in); err != nil {
		return err
	}
	if d.Done, err = m.rack.Length(); err != nil {
		return err
	}
	r.Drops = append(r.Drops, d)
	return nil
}

// drop puts a whole file into the inbox, durably: what its writer has not synced nobody can keep.
func (m *machine) drop(in rig.Input) error {
	path := filepath.Join(m.dir, "inbox", in.Name)
	if err := durable.MkdirAll(durable.Local{}, filepath.Dir(path), 0o775); err != nil {
		return err
	}
	return durable.WriteFile(durable.Local{}, path, []byte(in.Content()), 0o664)
}

// listen reads what the daemon says as it comes. To read it late only asks less of the disks.
func (r *recording) listen(path string, stop <-chan struct{}) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewReader(f)
	var line []byte
	for ended := false; ; {
		part, err := lines.ReadBytes('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			if err := r.hear(line); err != nil {
				return err
			}
			line = line[:0]
		case !errors.Is(err, io.EOF):
			return err
		case ended:
			return nil
		default:
			select {
			case <-stop:
				ended = true // but for what was said meanwhile
			case <-time.After(time.Millisecond):
			}
		}
	}
}

func (r *recording) hear(line []byte) error {
	var p promise
	if !bytes.HasPrefix(line, []byte("{")) {
		return nil
	}
	if err := json.Unmarshal(line, &p); err != nil {
		return fmt.Errorf("read the daemon's %q: %w", line, err)
	}
	var err error
	switch p.What {
	case accepted, kept, ended, archived, setAside:
		p.At, err = r.rack.Length()
		r.Promises = append(r.Promises, p)
	}
	return err
}

func (r *recording) readOutbox(dir string) error {
	r.Outbox = map[string]string{}
	return filepath.WalkDir(filepath.Join(dir, "outbox"), func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		sum, err := digest(path)
		r.Outbox[e.Name()] = sum
		return err
	})
}

func digest(path string) (string, error) {
	b, err := os.ReadFile(path)
	return sum(b), err
}

func sum(b []byte) string { return fmt.Sprintf("%x", sha256.Sum256(b)) }

// dropped counts the copies of an input that may be there at a cut, and those that must.
func (r *recording) dropped(name string, cut int) (least, most int) {
	for _, d := range r.Drops {
		if d.Input.Name != name {
			continue
		}
		if d.Done <= cut {
			least++
		}
		if d.Begun <= cut {
			most++
		}
	}
	return least, most
}

// inputs are the different files that were dropped.
func (r *recording) inputs() (all []rig.Input) {
	known := map[string]bool{}
	for _, d := range r.Drops {
		if !known[d.Input.Name] {
			all = append(all, d.Input)
		}
		known[d.Input.Name] = true
	}
	return all
}

// save writes a recording to a file, to replay a cut of it.
func (r *recording) save() (path string, err error) {
	f, err := os.CreateTemp(filepath.Dir(place), "stoker-powercut-*.json") // stays
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := json.MarshalWrite(f, r); err != nil {
		return "", err
	}
	return f.Name(), errors.Join(f.Close(), r.rack.Save(rackFile(f.Name())))
}

func rackFile(path string) string { return strings.TrimSuffix(path, ".json") + ".rack" }

func load(path string) (*recording, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := new(recording)
	if err := json.UnmarshalRead(f, r); err != nil {
		return nil, err
	}
	if r.rack, err = server.LoadRack(rackFile(path)); err != nil {
		return nil, err
	}
	r.length, err = r.rack.Length()
	return r, err
}
