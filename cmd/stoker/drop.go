package main

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"stoker/daemon/config"
	"stoker/daemon/inbox"
	"stoker/daemon/share"
	"stoker/store"
	"stoker/store/durable"
	"stoker/store/layout"
)

// drop is one file on its way into the inbox.
type drop struct {
	from, to, queue string
	prefix          string         // of its name while it is copied
	sidecar         bool           // a .done file is to announce it
	sha256          durable.SHA256 // once copied
	after           time.Time      // batches that ended before do not count
}

func planDrops(paths []string, c *config.Config, f submitFlags) ([]drop, error) {
	if f.name != "" && len(paths) > 1 {
		return nil, &usageError{errors.New("--name goes with one FILE")}
	}
	if f.queue != "" && !layout.IsQueue(f.queue) {
		return nil, &usageError{fmt.Errorf("%q is no name of a queue", f.queue)}
	}
	dir := filepath.Join(c.Paths.Inbox, f.queue)
	var drops []drop
	from := map[string]string{} // by name
	for _, path := range paths {
		name := filepath.Base(path)
		if f.name != "" {
			name = withSuffix(f.name, name)
		}
		if err := checkDropName(path, name); err != nil {
			return nil, err
		}
		if other := from[name]; other != "" {
			return nil, &usageError{fmt.Errorf("%s and %s have the same name", other, path)}
		}
		from[name] = path
		drops = append(drops, drop{
			from: path, to: filepath.Join(dir, name), queue: f.queue, prefix: submitPrefix, sidecar: c.Inbox.Ready == config.ReadySidecar,
		})
	}
	return drops, nil
}

// withSuffix gives a name without a suffix that of the file.
func withSuffix(name, file string) string {
	_, _, has := store.SplitInputName(name)
	stem, _, ok := store.SplitInputName(file)
	if has || !ok || filepath.Ext(name) != "" {
		return name
	}
	return name + file[len(stem):]
}

// checkDropName refuses a name that the inbox would not take.
func checkDropName(path, name string) error {
	const hint = "'stoker submit --name' drops it under another name"
	if _, _, ok := store.SplitInputName(name); !ok || name != filepath.Base(name) {
		return &exitError{code: exitUsage, err: fmt.Errorf("%s: stoker takes .jsonl, .jsonl.gz and .jsonl.zst files", name), hint: hint}
	}
	if inbox.IsIgnored(name) {
		return &exitError{code: exitUsage, err: fmt.Errorf("%s: the inbox does not take files named %s", path, name), hint: hint}
	}
	return nil
}

// inboxShare is the filesystem that files are dropped into: with inbox.require_mount, nothing but what is mounted there.
func inboxShare(c *config.Config) durable.FS {
	return share.New(durable.Local{}, share.Folder{Name: "inbox", Dir: c.Paths.Inbox, Mount: c.Inbox.RequireMount})
}

// copy puts the file into the inbox: temporary name, sync, rename that replaces nothing.
func (d *drop) copy(shared durable.FS) error {
	err := d.put(shared)
	if errors.Is(err, fs.ErrExist) {
		return &exitError{code: exitFailure, err: fmt.Errorf("submit %s: %s waits in the inbox already", d.from, d.to), hint: "--name gives this one another name"}
	}
	if err != nil {
		err = fmt.Errorf("submit %s: %w", d.from, err)
	}
	if at, ok := errors.AsType[*fs.PathError](err); ok && at.Path != d.from && errors.Is(err, fs.ErrPermission) {
		return &exitError{code: exitFailure, err: err, hint: letDrop(filepath.Dir(d.to))}
	}
	return err
}

func (d *drop) put(shared durable.FS) error {
	dir := filepath.Dir(d.to)
	if err := durable.MkdirAll(shared, dir, 0o775); err != nil {
		return err
	}
	tmp := filepath.Join(dir, d.prefix+rand.Text()+".tmp")
	defer shared.Remove(tmp)
	if err := d.write(shared, tmp); err != nil {
		return err
	}
	if err := shared.RenameNew(tmp, d.to); err != nil {
		return err
	}
	if err := durable.SyncDir(shared, dir); err != nil || !d.sidecar {
		return err
	}
	return durable.WriteFile(shared, d.to+".done", nil, 0o664)
}

// write copies the file's contents and makes them durable.
func (d *drop) write(shared durable.FS, tmp string) error {
	src, err := os.Open(d.from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := durable.Create(shared, tmp, 0o664)
	if err != nil {
		return err
	}
	digest := sha256.New()
	_, err = io.Copy(io.MultiWriter(dst, digest), src)
	d.sha256 = durable.Sum(digest)
	return errors.Join(err, dst.Chmod(0o664), dst.Sync(), dst.Close()) // the umask has no say
}

const (
	// submitPrefix begins the name of a file that `submit` copies into the inbox, and oncePrefix of one that `once` does.
	submitPrefix = ".submit-"
	oncePrefix   = ".once-"
	// abandoned is for how long nothing was written to a copy whose maker is dead, even if the share's clock is wrong.
	abandoned = 24 * time.Hour
)

// sweepDrops removes copies whose makers died. What cannot be removed stays for the next one.
func sweepDrops(shared durable.FS, dir, prefix string, age time.Duration) {
	entries, _ := shared.ReadDir(dir)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		if st, err := e.Info(); err == nil && time.Since(st.ModTime()) >= age {
			shared.Remove(filepath.Join(dir, e.Name()))
		}
	}
}
