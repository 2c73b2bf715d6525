package store

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"stoker/store/durable"
	"stoker/store/layout"
)

// survey looks at what lies in the folders around batches: temporary files of attempts that died, and folders that are no
// batch's. It also keeps what several batches of one Verify ask of a folder.
//
// A daemon that runs makes temporary files all the time, so that only those count which are certainly no live attempt's.
// Without one, those count which the next start does not remove; the others are noted.
type survey struct {
	store   *Store
	folders Folders
	report  *Report
	began   int64                    // what comes later may not be seen whole
	entries map[string][]fs.DirEntry // by folder
	digests map[string]durable.SHA256
}

func newSurvey(s *Store, folders Folders, report *Report) *survey {
	return &survey{store: s, folders: folders, report: report, began: now(), entries: map[string][]fs.DirEntry{}, digests: map[string]durable.SHA256{}}
}

// look surveys all folders, or tells only what is of one batch.
func (s *survey) look(id string) {
	all := survey{store: s.store, folders: s.folders, report: &Report{}, entries: s.entries}
	all.lookAtState()
	all.lookAtInputs()
	all.lookAtClaims()
	all.lookAtOutbox()
	all.lookAtArchive()
	for _, f := range all.report.Findings {
		if id == "" || f.Batch == id {
			s.report.Findings = append(s.report.Findings, f)
		}
	}
}

func (s *survey) tell(f Finding) { s.report.Findings = append(s.report.Findings, f) }

// leftOver tells of something that no start removes.
func (s *survey) leftOver(id, path, message string) {
	s.tell(Finding{Batch: id, Invariant: NoLeftovers, File: path, Message: message})
}

// passing tells of something that the next start deals with. A daemon that runs is about to.
func (s *survey) passing(id, path, message string) {
	if s.store.readOnly {
		s.tell(Finding{Batch: id, Note: true, File: path, Message: message})
	}
}

// in returns a folder's entries, read once. One that cannot be read has none to show.
func (s *survey) in(dir string) []fs.DirEntry {
	entries, known := s.entries[dir]
	if !known {
		entries, _ = s.folders.FS.ReadDir(dir)
		s.entries[dir] = entries
	}
	return entries
}

// holds reports whether a folder holds an input, under its name or one with a number.
func (s *survey) holds(dir string, in Input) bool {
	stem, _, _ := SplitInputName(string(in.Name))
	stem = CutName(stem, 2*LongestSuffix)
	for _, e := range s.in(dir) {
		if !strings.HasPrefix(e.Name(), stem) {
			continue
		}
		if st, err := e.Info(); err == nil && st.Size() == in.Bytes && s.digest(filepath.Join(dir, e.Name())) == in.SHA256 {
			return true
		}
	}
	return false
}

func (s *survey) digest(path string) durable.SHA256 {
	sum, known := s.digests[path]
	if !known {
		sum, _, _ = durable.Hash(s.folders.FS, path)
		s.digests[path] = sum
	}
	return sum
}

// lookAtState looks into the state folder.
func (s *survey) lookAtState() {
	dir := s.store.dir
	for _, e := range s.entriesOfState(dir) {
		if isStateTemp(e.Name()) && s.store.readOnly {
			s.passing("", filepath.Join(dir, e.Name()), "is left over; the next start removes it")
		} else if isStateTemp(e.Name()) {
			s.leftOver("", filepath.Join(dir, e.Name()), "is left over, though stoker has started since")
		}
	}
	for _, e := range s.entriesOfState(filepath.Join(dir, batchesDir)) {
		if !ValidID(e.Name()) {
			s.tell(Finding{Note: true, File: filepath.Join(dir, batchesDir, e.Name()), Message: "is no batch's"})
			continue
		}
		s.lookAtBatch(e.Name())
	}
}

// lookAtInputs holds the index of inputs against the records. The next start makes it anew.
func (s *survey) lookAtInputs() {
	s.store.view(func(tx *bbolt.Tx) error { // what cannot be read is told of elsewhere
		if tx.Bucket(bucketInputs) == nil {
			return nil // of an older version
		}
		return eachInputMisfit(tx, func(id, misfit string) {
			f := Finding{Batch: id, Note: s.store.readOnly, File: s.store.db.Path(), Message: misfit + "; the next start mends it"}
			if !f.Note {
				f.Invariant = NothingLost
			}
			s.tell(f)
		})
	})
}

func (s *survey) entriesOfState(dir string) []fs.DirEntry {
	entries, _ := s.store.fs.ReadDir(dir)
	return entries
}

// lookAtBatch looks into a batch's folder.
func (s *survey) lookAtBatch(id string) {
	dir := s.store.batchDir(id)
	r, err := s.store.Get(id)
	_, metaErr := s.store.fs.Lstat(filepath.Join(dir, metaFile))
	switch {
	case errors.Is(err, ErrNotFound) && s.store.hasResults(id):
		if _, err := s.store.Get(id); errors.Is(err, ErrNotFound) { // it was not accepted since
			s.tell(Finding{Batch: id, Invariant: NothingLost, File: dir, Message: "has results, but the database does not know it; 'stoker state rebuild' does"})
		}
	case errors.Is(err, ErrNotFound) && metaErr == nil:
		s.passing(id, dir, "was not accepted yet; its file is claimed, and the next start goes on with it")
	case errors.Is(err, ErrNotFound) && (s.store.readOnly || s.hasClaim(id)):
		s.passing(id, dir, "was not accepted; the next start removes it")
	case errors.Is(err, ErrNotFound):
		s.leftOver(id, dir, "was not accepted, and its file is not claimed")
	case err == nil:
		for _, name := range temporaries(s.store.fs, dir) {
			s.judge(s.store.fs, r, filepath.Join(dir, name), r.State.Ended())
		}
	}
}

// judge tells of a batch's temporary file: it stays if the batch is past what made it.
func (s *survey) judge(fsys durable.FS, r *Record, path string, past bool) {
	if past {
		if _, err := fsys.Lstat(path); err == nil { // its batch may have ended since it was seen
			s.leftOver(r.ID, path, "is left over from an attempt that died, and nothing removes it")
		}
	} else {
		s.passing(r.ID, path, "is left over from an attempt that died; the next start removes it")
	}
}

// judgeShared tells of a temporary file in a folder that other stokers may write to as well.
func (s *survey) judgeShared(id, path string, past func(*Record) bool) {
	r, err := s.store.Get(id)
	switch {
	case err == nil:
		s.judge(s.folders.FS, r, path, past(r))
	case s.hasClaim(id):
		s.passing(id, path, "is of a claimed file; the next start goes on with it")
	default:
		s.tell(Finding{Batch: id, Note: true, File: path, Message: "is of a batch that this stoker does not know"})
	}
}

func (s *survey) hasClaim(id string) bool {
	if s.folders.Inbox == "" {
		return false
	}
	_, err := s.folders.FS.Lstat(s.store.claimDir(s.folders, id))
	return err == nil
}

// lookAtClaims looks for claims that are no batch's.
func (s *survey) lookAtClaims() {
	if s.folders.Inbox == "" {
		return
	}
	root := filepath.Dir(s.store.claimDir(s.folders, "x"))
	for _, e := range s.in(root) {
		id, dir := e.Name(), filepath.Join(root, e.Name())
		_, err := s.store.Get(id)
		isFile := func(e fs.DirEntry) bool { return !strings.HasPrefix(e.Name(), ".") }
		switch {
		case !ValidID(id):
			s.tell(Finding{Note: true, File: dir, Message: "is no claim"})
		case !errors.Is(err, ErrNotFound):
		case slices.ContainsFunc(s.in(dir), isFile):
			s.passing(id, dir, "is claimed and no batch yet; the next start goes on with it")
		default:
			s.passing(id, dir, "is a claim of nothing; the next start removes it")
		}
	}
}

// lookAtOutbox looks for unfinished result files, in the folders of all queues.
func (s *survey) lookAtOutbox() {
	s.eachFolder(s.folders.Outbox, func(dir string) {
		for _, name := range temporaries(s.folders.FS, dir) {
			if id, ours := tempOwner(name, TempPrefix); ours {
				s.judgeShared(id, filepath.Join(dir, name), func(r *Record) bool { return r.State.Ended() })
			}
		}
	})
}

// lookAtArchive looks for inputs that were being copied from another filesystem, and for notes half written.
func (s *survey) lookAtArchive() {
	if s.folders.Archive == "" {
		return
	}
	for _, folder := range []string{layout.Done, layout.Failed, layout.Duplicate} {
		s.eachFolder(filepath.Join(s.folders.Archive, folder), func(dir string) {
			for _, name := range temporaries(s.folders.FS, dir) {
				path := filepath.Join(dir, name)
				if id, ours := tempOwner(name, durable.MovePrefix); ours {
					s.judgeShared(id, path, func(r *Record) bool { return r.Archived })
				} else if strings.HasSuffix(name, SuffixDuplicate+".tmp") && s.store.readOnly {
					s.leftOver("", path, "is a note half written, and nothing removes it")
				}
			}
		})
	}
}

// eachFolder calls visit for a folder and those in it, which are queues'.
func (s *survey) eachFolder(dir string, visit func(dir string)) {
	if dir == "" {
		return
	}
	visit(dir)
	for _, e := range s.in(dir) {
		if e.IsDir() {
			visit(filepath.Join(dir, e.Name()))
		}
	}
}

// tempOwner tells whose a temporary file is: PREFIX, a batch's id, and what kind it is.
func tempOwner(name, prefix string) (id string, ok bool) {
	rest, ok := strings.CutPrefix(name, prefix)
	id, _, _ = strings.Cut(rest, ".")
	return id, ok && ValidID(id)
}

// temporaries returns the names of temporary files in a folder. One that cannot be read has none to show.
func temporaries(fsys durable.FS, dir string) []string {
	var names []string
	entries, _ := fsys.ReadDir(dir)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") || strings.HasSuffix(e.Name(), ".tmp.part") {
			names = append(names, e.Name())
		}
	}
	return names
}
