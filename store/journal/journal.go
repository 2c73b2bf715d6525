package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"stoker/store/durable"
	"stoker/store/faults"
)

// Journal appends frames to a batch's journal file. Frames are buffered: they reach the file with Flush and are durable
// only after a sync.
type Journal struct {
	f       durable.File
	buf     []byte
	size    int64 // of the file, buffered frames not counted
	badHead bool  // cut off, or damaged
}

// flushAt is how many buffered bytes are written without waiting for Flush.
const flushAt = 256 << 10

// Create makes an empty journal, durable but for its name.
func Create(fsys durable.FS, path string) error {
	f, err := fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteString(head); err != nil {
		f.Close()
		return err
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("create journal: %w", err)
	}
	return nil
}

// Open opens a journal for appending at its end. Recovery mends a head and a tail that are cut off before.
func Open(fsys durable.FS, path string, mode int) (*Journal, error) {
	f, err := fsys.OpenFile(path, mode, 0)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	j := &Journal{f: f, size: st.Size()}
	if err := j.checkHead(); err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

// checkHead refuses a file that is no journal. One that ends within the head holds nothing, but may be one, and one whose
// frames are a journal's has a damaged head.
func (j *Journal) checkHead() error {
	b := make([]byte, len(head))
	n, err := j.f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read journal %s: %w", j.f.Name(), err)
	}
	if string(b) == head {
		return nil
	}
	j.badHead = true
	if string(b[:n]) == head[:n] {
		return nil
	}
	if _, err := readFrameAt(j.f, int64(n), j.size); errors.Is(err, errTorn) {
		return &fs.PathError{Op: "read journal", Path: j.f.Name(), Err: errors.New("not a journal of this version")}
	} else if err != nil {
		return fmt.Errorf("read journal %s: %w", j.f.Name(), err)
	}
	return nil
}

// MendHead writes a head that is cut off or damaged.
func (j *Journal) MendHead() error {
	if !j.badHead {
		return nil
	}
	if _, err := j.f.WriteAt([]byte(head), 0); err != nil {
		return fmt.Errorf("mend journal: %w", err)
	}
	j.size, j.badHead = max(j.size, Start), false
	return nil
}

// Append adds a frame to those that are buffered.
func (j *Journal) Append(f Frame) error {
	if len(f.Payload) > MaxPayload {
		return fmt.Errorf("append frame of request %d: %d bytes are more than a frame holds (%d)", f.Seq, len(f.Payload), MaxPayload)
	}
	j.buf = appendFrame(j.buf, f)
	if len(j.buf) >= flushAt {
		return j.Flush()
	}
	return nil
}

// AppendNow writes a frame out, behind those that are buffered. Unlike them it is forgotten if that fails.
func (j *Journal) AppendNow(f Frame) error {
	if err := j.Flush(); err != nil {
		return err
	}
	if err := j.Append(f); err != nil { // which may write it at once
		j.buf = j.buf[:0]
		return err
	}
	err := j.Flush()
	if err != nil {
		j.buf = j.buf[:0]
	}
	return err
}

// Flush hands buffered frames to the operating system: from here on they survive the death of the process.
func (j *Journal) Flush() error {
	if len(j.buf) == 0 {
		return nil
	}
	if faults.Armed("journal.torn") {
		j.f.WriteAt(j.buf[:len(j.buf)-1], j.size) // as a kill in the middle of a write leaves it
	}
	faults.Crash("journal.torn")
	n, err := j.f.WriteAt(j.buf, j.size)
	if err != nil {
		// Nothing was promised for these frames; cut off what was written of them, so that a retry begins cleanly.
		if terr := j.f.Truncate(j.size); terr != nil {
			return fmt.Errorf("write journal: %w", errors.Join(err, terr))
		}
		return fmt.Errorf("write journal (%d of %d bytes): %w", n, len(j.buf), err)
	}
	j.size += int64(n)
	j.buf = j.buf[:0]
	return nil
}

// Rewrite writes what stands behind an offset once more. A process before may have ended because a sync failed: then the
// kernel shows bytes that it will never write, and a sync that succeeds says nothing of them.
func (j *Journal) Rewrite(from int64) error {
	buf := make([]byte, min(1<<20, max(0, j.size-from)))
	for from < j.size {
		n, err := j.f.ReadAt(buf[:min(int64(len(buf)), j.size-from)], from)
		if err == nil {
			_, err = j.f.WriteAt(buf[:n], from)
		}
		if err != nil {
			return fmt.Errorf("write journal again at %d: %w", from, err)
		}
		from += int64(n)
	}
	return nil
}

// Truncate cuts the file behind end.
func (j *Journal) Truncate(end int64) error {
	if j.size == end {
		return nil
	}
	if err := j.f.Truncate(end); err != nil {
		return fmt.Errorf("cut torn tail: %w", err)
	}
	j.size = end
	return nil
}

// Close lets go of the file. Buffered frames are lost.
func (j *Journal) Close() error { return j.f.Close() }

// Datasync makes the file's frames durable. It may be called beside whatever else is done to the journal.
func (j *Journal) Datasync() error {
	if faults.Planted("journal-not-synced") {
		return nil
	}
	return j.f.Datasync()
}

// Reader reads the frames that are in the file by now.
func (j *Journal) Reader() *Reader { return &Reader{f: j.f, end: j.size} }

// Name is the file's.
func (j *Journal) Name() string { return j.f.Name() }

// Size is how long the file is. Buffered frames are not counted.
func (j *Journal) Size() int64 { return j.size }

// Buffered is how many bytes of frames are not in the file yet.
func (j *Journal) Buffered() int { return len(j.buf) }

// HeadDamaged reports whether the head is cut off or damaged, so that MendHead writes it.
func (j *Journal) HeadDamaged() bool { return j.badHead }
