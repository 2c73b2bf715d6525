package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/oklog/ulid/v2"

	"stoker/store/batchfile"
	"stoker/store/durable"
	"stoker/store/layout"
)

// Meta is what is fixed about a batch when it is accepted: STATE/batches/ID/meta.json.
type Meta struct {
	Schema    int               `json:"schema"`
	ID        string            `json:"id"`
	Name      FileName          `json:"name"`  // reserved for the result files
	Queue     string            `json:"queue"` // "" for files that lie in the inbox itself
	Input     Input             `json:"input"`
	CreatedAt int64             `json:"created_at"` // Unix milliseconds
	Requests  uint32            `json:"requests"`
	Invalid   uint32            `json:"invalid"` // requests that cannot run
	Endpoint  string            `json:"endpoint"`
	Models    []string          `json:"requested_models,omitzero"`
	Defaults  jsontext.Value    `json:"defaults,omitzero"` // what a line leaves out, as configured at the time: an object
	MaxLine   int64             `json:"max_line"`          // bytes
	Metadata  map[string]string `json:"metadata,omitzero"`
	Refused   *Refusal          `json:"refused,omitzero"` // why the batch as a whole fails
}

// Input is the file as it was dropped.
type Input struct {
	Name        FileName              `json:"name"`
	Compression batchfile.Compression `json:"compression,omitzero"`
	SHA256      durable.SHA256        `json:"sha256"` // of the file as dropped
	Bytes       int64                 `json:"bytes"`  // likewise
	Snapshot    int64                 `json:"snapshot_bytes"`
	ModTime     int64                 `json:"mtime_ns"` // when it was copied, to notice later changes
}

// Refusal is why a batch fails as a whole. Line is 0 where no line is at fault.
type Refusal struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Line    int64  `json:"line,omitzero"`
}

// State is a batch's state, in the words of OpenAI's Batch API.
type State string

const (
	Validating State = "validating" // accepted; no request has run yet
	InProgress State = "in_progress"
	Finalizing State = "finalizing"
	Completed  State = "completed"
	Failed     State = "failed"
)

func (s State) known() bool {
	return s == Validating || s == InProgress || s == Finalizing || s.Ended()
}

// Ended reports whether nothing more will happen to a batch in this state.
func (s State) Ended() bool { return s == Completed || s == Failed }

// ArchiveFolder is where in the archive the input of a batch goes that ended in this state.
func (s State) ArchiveFolder() string {
	if s == Failed {
		return layout.Failed
	}
	return layout.Done
}

// Engine is what answered requests of a batch.
type Engine struct {
	Kind    string `json:"kind"`
	Version string `json:"version"`
	Model   string `json:"model"`
}

// Record is a batch in bbolt: what changes while it runs, and what lists need. Meta and the journal rebuild it. Times are
// Unix milliseconds.
type Record struct {
	ID           string   `json:"id"`
	Name         FileName `json:"name"`
	Queue        string   `json:"queue"`
	Input        Input    `json:"input"`
	Requests     uint32   `json:"requests"`
	State        State    `json:"state"`
	CreatedAt    int64    `json:"created_at"`
	InProgressAt int64    `json:"in_progress_at,omitzero"`
	FinalizingAt int64    `json:"finalizing_at,omitzero"`
	EndedAt      int64    `json:"ended_at,omitzero"`
	Engines      []Engine `json:"engines,omitzero"`             // what answered, the first one first
	Suspects     int      `json:"suspects,omitzero"`            // requests that the engine died with
	PublishedAs  FileName `json:"published,omitzero"`           // the name of its result files, once it has ended
	Changed      bool     `json:"changed_after_claim,omitzero"` // the input was written to after it was claimed
	Archived     bool     `json:"archived,omitzero"`            // its input has left .processing
	Unreadable   string   `json:"unreadable,omitzero"`          // why Rebuild could make no batch of the folder
}

// NewID returns a batch id: "batch_" and a ULID, so that ids sort by time.
func NewID() string { return idPrefix + strings.ToLower(ulid.Make().String()) }

const idPrefix = "batch_"

// ValidID reports whether s has the form of a batch id.
func ValidID(s string) bool {
	rest, ok := strings.CutPrefix(s, idPrefix)
	if !ok || rest != strings.ToLower(rest) {
		return false
	}
	_, err := ulid.ParseStrict(rest)
	return err == nil
}

const (
	metaFile = "meta.json"
	// metaSchema is the version of a batch folder's files: meta.json itself, snapshot, line index and journal.
	metaSchema = 2
)

func writeMeta(fsys durable.FS, dir string, m *Meta) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode meta of %s: %w", m.ID, err)
	}
	return durable.WriteFile(fsys, filepath.Join(dir, metaFile), sealed(b), 0o600)
}

func readMeta(fsys durable.FS, dir string) (*Meta, error) {
	path := filepath.Join(dir, metaFile)
	b, err := durable.ReadFile(fsys, path)
	if err != nil {
		return nil, fmt.Errorf("read meta: %w", err)
	}
	m := new(Meta)
	if b, err = unsealed(b); err == nil {
		err = json.Unmarshal(b, m)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "read meta", Path: path, Err: err}
	}
	return m, nil
}

// seal is the last member of meta.json: the CRC-32C of the object without it.
const seal = `,"crc32c":"%08x"}`

// sealed adds the seal to an object.
func sealed(object []byte) []byte {
	return fmt.Appendf(bytes.Clone(object[:len(object)-1]), seal, crc32.Checksum(object, crcTable))
}

// unsealed is the object without its seal, if that is whole.
func unsealed(b []byte) ([]byte, error) {
	cut := len(b) - len(fmt.Sprintf(seal, 0))
	if cut < 0 {
		return nil, errors.New("it is cut off")
	}
	object := append(bytes.Clone(b[:cut]), '}')
	if !bytes.Equal(sealed(object), b) {
		return nil, errors.New("its checksum does not fit")
	}
	return object, nil
}

// check refuses a meta that is damaged, or another batch's: it must say what the record says.
func (m *Meta) check(r *Record) error {
	switch {
	case m.Schema != metaSchema:
		return fmt.Errorf("read meta of %s: schema %d is not %d", r.ID, m.Schema, metaSchema)
	case !r.isOf(m):
		return fmt.Errorf("read meta of %s: it does not say what the batch's record says", r.ID)
	case m.MaxLine < 1 || m.Defaults != nil && m.Defaults.Kind() != jsontext.KindBeginObject:
		return fmt.Errorf("read meta of %s: damaged", r.ID)
	}
	return nil
}

// isOf reports whether the record says what of the batch its results depend on.
func (r *Record) isOf(m *Meta) bool {
	return r.ID == m.ID && r.Name == m.Name && r.Queue == m.Queue && r.Input == m.Input && r.Requests == m.Requests
}

// fits reports whether the record says all that was fixed when the batch was accepted.
func (r *Record) fits(m *Meta) bool { return r.isOf(m) && r.CreatedAt == m.CreatedAt }

func newRecord(m *Meta) *Record {
	return &Record{ID: m.ID, Name: m.Name, Queue: m.Queue, Input: m.Input, Requests: m.Requests, State: Validating, CreatedAt: m.CreatedAt}
}

// Model is the model that the batch began with, "" before it began.
func (r *Record) Model() string {
	if len(r.Engines) == 0 {
		return ""
	}
	return r.Engines[0].Model
}

func now() int64 { return time.Now().UnixMilli() }
