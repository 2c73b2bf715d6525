package daemon

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"stoker/daemon/api"
	"stoker/daemon/config"
	"stoker/daemon/dispatch"
	"stoker/daemon/inbox"
	"stoker/daemon/outbox"
	"stoker/daemon/share"
	"stoker/store/durable"
)

// newShares is the filesystem below the folders that others write to as well.
func newShares(c *config.Config) *share.FS {
	p, stay := &c.Paths, c.Inbox.RequireMount
	return share.New(durable.Beneath{p.Inbox, p.Outbox, p.Archive},
		share.Folder{Name: "inbox", Dir: p.Inbox, Mount: stay},
		share.Folder{Name: "outbox", Dir: p.Outbox, Stay: stay},
		share.Folder{Name: "archive", Dir: p.Archive, Stay: stay})
}

// makeFolders makes what is not there. It returns the folders that a share's fault kept it from making, to be tried again.
func makeFolders(c *config.Config, log *zerolog.Logger) (missing []string, err error) {
	p := &c.Paths
	if err := durable.MkdirAll(durable.Local{}, p.State, stateMode); err != nil {
		return nil, &FolderError{p.State, stateMode, fmt.Errorf("state folder: %w", err)}
	}
	if remote, err := inbox.IsShare(p.State); err != nil {
		return nil, err
	} else if remote {
		return nil, fmt.Errorf("%w: state %s is on a network filesystem, whose locks and syncs are not to be trusted; it must be on a local disk", ErrBadPath, p.State)
	}
	folders := []string{p.Outbox, p.Archive}
	if !c.Inbox.RequireMount { // else it is the mount point, and there while nothing is mounted only if somebody wants it so
		folders = append(folders, p.Inbox)
	}
	for i, err := range makeAll(folders) {
		switch {
		case isShareFault(err):
			log.Warn().Err(err).Str("folder", folders[i]).Msg("a share does not work; going on without it until it does")
			missing = append(missing, folders[i])
		case err != nil:
			return nil, &FolderError{folders[i], sharedMode, fmt.Errorf("create folder: %w", err)}
		}
	}
	looked := slices.DeleteFunc(append([]string{p.State, p.Inbox}, folders...), func(dir string) bool { return slices.Contains(missing, dir) })
	return missing, apart(looked)
}

// apart refuses folders that are one and the same under two names, by links or mounts: results would be taken for inputs.
// One that cannot be looked at now is passed over.
func apart(folders []string) error {
	type seen struct {
		dir string
		st  os.FileInfo
	}
	var all []seen
	for _, dir := range folders {
		st, err := share.Soon(func() (os.FileInfo, error) { return os.Stat(dir) })
		if err != nil {
			continue
		}
		for _, other := range all {
			if other.dir != dir && os.SameFile(st, other.st) {
				return fmt.Errorf("%w: %s and %s are the same", ErrBadPath, other.dir, dir)
			}
		}
		all = append(all, seen{dir, st})
	}
	return nil
}

// lookAtFolders makes those that are missing, which takes as long as shares are given to answer.
func (d *Daemon) lookAtFolders() {
	d.pulses.daemon.Begin()
	defer d.pulses.daemon.End()
	d.makeMissing()
}

// makeMissing tries again to make the folders that could not be made at the start, and those that somebody removed since. One
// whose share hangs is made by the try that hangs.
func (d *Daemon) makeMissing() {
	d.missing = append(d.missing, d.removed()...)
	if len(d.missing) == 0 {
		return
	}
	var missing []string
	for i, err := range makeAll(d.missing) {
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			missing = append(missing, d.missing[i])
		}
	}
	d.missing = missing
}

// makeAll makes folders that may be on shares that hang, all at once.
func makeAll(folders []string) []error {
	errs := make([]error, len(folders))
	var all sync.WaitGroup
	for i, dir := range folders {
		all.Go(func() {
			_, errs[i] = share.Soon(func() (struct{}, error) { return struct{}{}, durable.MkdirAll(durable.Local{}, dir, 0o775) })
		})
	}
	all.Wait()
	return errs
}

// removed returns the shared folders that are not there any more. Where they must be mounted, that is a mount's to mend.
func (d *Daemon) removed() (gone []string) {
	p := &d.o.Config.Paths
	if d.o.Config.Inbox.RequireMount {
		return nil
	}
	for _, dir := range []string{p.Inbox, p.Outbox, p.Archive} {
		_, err := share.Soon(func() (os.FileInfo, error) { return d.shares.Stat(dir) })
		if errors.Is(err, os.ErrNotExist) && !slices.Contains(d.missing, dir) {
			d.o.Logger.Warn().Str("folder", dir).Msg("somebody removed it; making it again")
			gone = append(gone, dir)
		}
	}
	return gone
}

// troublesEvery is how often shares are looked at for the log.
const troublesEvery = 5 * time.Second

// logTroubles says once that a share does not answer or is not mounted, and once that it does again: who noticed it may be
// held up. It returns what was wrong, for the next call.
func (d *Daemon) logTroubles(before []share.Trouble) []share.Trouble {
	now := d.shares.Troubles()
	has := func(all []share.Trouble, one share.Trouble) bool {
		return slices.ContainsFunc(all, func(t share.Trouble) bool { return t.Name == one.Name })
	}
	for _, t := range now {
		if !has(before, t) {
			d.o.Logger.Error().Err(t.Err).Msg("going on without a share until it works")
		}
	}
	for _, t := range before {
		if !has(now, t) {
			d.o.Logger.Info().Str("folder", t.Dir).Float64("seconds", time.Since(t.Since).Seconds()).Msg(t.Name + " works again")
		}
	}
	return now
}

// isShareFault reports whether an error is one that shares have and recover from.
func isShareFault(err error) bool {
	return slices.ContainsFunc([]error{
		os.ErrDeadlineExceeded, unix.EIO, unix.EROFS, unix.ESTALE, unix.ENOTCONN, unix.ETIMEDOUT, unix.EHOSTDOWN, unix.ENOSPC, unix.EDQUOT,
	}, func(fault error) bool { return errors.Is(err, fault) })
}

// isRemote reports whether the inbox is on a network filesystem. One that cannot be looked at now is taken for one: that
// only makes stoker slower to take its files.
func isRemote(c *config.Config, missing []string) (bool, error) {
	if slices.Contains(missing, c.Paths.Inbox) {
		return true, nil
	}
	remote, err := share.Soon(func() (bool, error) { return inbox.IsShare(c.Paths.Inbox) })
	if err != nil && (c.Inbox.RequireMount || isShareFault(err)) {
		return true, nil
	}
	return remote, err
}

// storage says what is wrong with the folders: where there is no room, what does not answer, what fails. It asks none of
// them.
func (d *Daemon) storage(feed *dispatch.Snapshot, in *inbox.Status, out *outbox.Status) []api.Storage {
	p := &d.o.Config.Paths
	t := trouble{waits: map[string][]string{
		"state":   {counted(len(feed.Running), "batch", "batches"), counted(in.Held, "file", "files")},
		"inbox":   {counted(in.Claimed(), "claimed file", "claimed files")},
		"outbox":  {counted(out.Queue, "batch to be published", "batches to be published")},
		"archive": {counted(in.Archive.Waiting, "input to be archived", "inputs to be archived")},
	}}
	t.lacks("state", p.State, feed.Lacks)
	t.lacks("state", p.State, in.Lacks)
	for _, s := range d.shares.Troubles() {
		kind := api.Silent
		if _, unmounted := s.Err.(*share.UnmountedError); unmounted {
			kind = api.Unmounted
		}
		t.add(api.Storage{Name: s.Name, Path: s.Dir, Kind: kind, Reason: s.Err.Error(), Since: s.Since})
	}
	t.fails("inbox", p.Inbox, in.Problem)
	t.lacks("outbox", p.Outbox, out.Lacks)
	t.fails("outbox", p.Outbox, out.Reason)
	t.lacks("archive", p.Archive, in.Archive.Lacks)
	t.fails("archive", p.Archive, in.Archive.Problem)
	return t.all
}

// trouble gathers what is wrong, with each folder once.
type trouble struct {
	waits map[string][]string
	all   []api.Storage
}

func (t *trouble) add(s api.Storage) {
	if slices.ContainsFunc(t.all, func(told api.Storage) bool { return told.Path == s.Path }) {
		return
	}
	s.Waits = slices.DeleteFunc(t.waits[s.Name], func(what string) bool { return what == "" })
	t.all = append(t.all, s)
}

// lacks adds that there is no room. What waits in one folder may wait for room in the state.
func (t *trouble) lacks(name, path string, full *durable.FullError) {
	switch {
	case full == nil:
	case full.Dir == path:
		t.add(api.Storage{Name: name, Path: path, Kind: api.Full, Reason: full.Error(), Needed: full.Need, Free: full.Free})
	default:
		t.waits["state"] = append(t.waits["state"], t.waits[name]...)
		t.lacks("state", full.Dir, full)
	}
}

func (t *trouble) fails(name, path, problem string) {
	if problem != "" {
		t.add(api.Storage{Name: name, Path: path, Kind: api.Failing, Reason: problem})
	}
}

// counted is a number of things in words, "" for none.
func counted(n int, one, many string) string {
	switch n {
	case 0:
		return ""
	case 1:
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}
