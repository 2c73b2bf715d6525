// Package api is what the daemon answers on its Unix socket, for the commands and for health checks.
package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"stoker/daemon/dispatch"
	"stoker/daemon/inbox"
	"stoker/daemon/outbox"
	"stoker/engine"
	"stoker/engine/processes"
	"stoker/store"
)

// SchemaVersion is that of every report. Members are added, never renamed or removed.
const SchemaVersion = 1

// Status is the daemon as people see it.
type Status struct {
	SchemaVersion int                 `json:"schema_version"`
	Running       bool                `json:"running"` // a daemon answered
	Version       string              `json:"version,omitzero"`
	PID           int                 `json:"pid,omitzero"`
	Instance      string              `json:"instance,omitzero"`
	StartedAt     time.Time           `json:"started_at,omitzero"`
	Draining      bool                `json:"draining"`
	Settings      *Settings           `json:"settings,omitzero"`
	Engine        *engine.Status      `json:"engine,omitzero"`
	Dispatch      *dispatch.Snapshot  `json:"dispatch,omitzero"`
	Inbox         *inbox.Status       `json:"inbox,omitzero"`
	Outbox        *outbox.Status      `json:"outbox,omitzero"`
	Storage       []Storage           `json:"storage,omitzero"` // folders that something is wrong with
	Batches       map[store.State]int `json:"batches"`
	BadRecords    []store.BadRecord   `json:"bad_records,omitzero"` // of batches that wait for a rebuild of the state
	Reload        *Reload             `json:"reload,omitzero"`      // the last one
}

// Settings are those in effect that commands heed: what the file says may have changed since, or be wrong.
type Settings struct {
	ConfigFile   string `json:"config_file"` // that was read, "" if there was none
	Inbox        string `json:"inbox"`
	Outbox       string `json:"outbox"`
	Archive      string `json:"archive"`
	State        string `json:"state"`
	Ready        string `json:"ready"`
	Duplicates   string `json:"duplicates"`
	MaxLine      int64  `json:"max_line_bytes"`
	RequireMount bool   `json:"require_mount"`
}

// Reload is what reading the configuration again came to.
type Reload struct {
	At      time.Time `json:"at"`
	Refused []string  `json:"refused,omitzero"` // why all of it was
	Waiting []string  `json:"waiting,omitzero"` // keys that take effect at the next start; if it was refused: those of the one before
}

// Batch is a batch with its progress. Times are RFC 3339.
type Batch struct {
	SchemaVersion    int            `json:"schema_version,omitzero"`
	ID               string         `json:"id"`
	Name             store.FileName `json:"name"`
	Queue            string         `json:"queue"`
	State            store.State    `json:"state"`
	Reason           string         `json:"reason,omitzero"`
	InputName        store.FileName `json:"input_name"`
	InputSHA256      string         `json:"input_sha256"`
	InputBytes       int64          `json:"input_bytes"`
	Requests         uint32         `json:"requests"`
	Completed        uint32         `json:"completed"`
	Failed           uint32         `json:"failed"`
	Redone           uint32         `json:"redone"`
	PromptTokens     uint64         `json:"prompt_tokens"`
	CompletionTokens uint64         `json:"completion_tokens"`
	CreatedAt        time.Time      `json:"created_at"`
	InProgressAt     time.Time      `json:"in_progress_at,omitzero"`
	FinalizingAt     time.Time      `json:"finalizing_at,omitzero"`
	EndedAt          time.Time      `json:"ended_at,omitzero"`
	Engines          []store.Engine `json:"engines,omitzero"`
	Published        store.FileName `json:"published,omitzero"` // name of the result files
	Archived         bool           `json:"archived"`
	Changed          bool           `json:"changed_after_claim"` // the input was written to after it was claimed
	Refused          *store.Refusal `json:"refused,omitzero"`
}

// Find describes one batch. The error is store.ErrNotFound if there is none.
func Find(s *store.Store, id string) (*Batch, error) {
	r, err := s.Get(id)
	if err != nil {
		return nil, err
	}
	b, err := describe(s, r)
	if err != nil {
		return nil, err
	}
	b.SchemaVersion = SchemaVersion
	return &b, nil
}

// describe puts a batch together from what the store has of it.
func describe(s *store.Store, r *store.Record) (Batch, error) {
	p, err := s.Progress(r.ID)
	if err != nil {
		return Batch{}, err
	}
	b := Batch{
		ID: r.ID, Name: r.Name, Queue: r.Queue, State: r.State, InputName: r.Input.Name, InputSHA256: string(r.Input.SHA256),
		InputBytes: r.Input.Bytes, Requests: r.Requests, Completed: p.Completed, Failed: p.Failed, Redone: p.Redone,
		PromptTokens: p.PromptTokens, CompletionTokens: p.CompletionTokens, Engines: r.Engines, Published: r.PublishedAs,
		Archived: r.Archived, Changed: r.Changed, CreatedAt: at(r.CreatedAt), InProgressAt: at(r.InProgressAt), FinalizingAt: at(r.FinalizingAt), EndedAt: at(r.EndedAt),
	}
	if m, err := s.Meta(r.ID); err == nil {
		b.Refused = m.Refused
	}
	return b, nil
}

func at(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Batches is a list of batches, oldest first.
type Batches struct {
	SchemaVersion int     `json:"schema_version"`
	Batches       []Batch `json:"batches"`
}

// List describes all batches in a state, or all with state "".
func List(s *store.Store, state store.State) (*Batches, error) {
	records, err := s.List()
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(records, func(a, b *store.Record) int { return cmp.Compare(a.CreatedAt, b.CreatedAt) })
	list := &Batches{SchemaVersion: SchemaVersion, Batches: []Batch{}}
	for _, r := range records {
		if state != "" && r.State != state {
			continue
		}
		b, err := describe(s, r)
		if err != nil {
			return nil, err
		}
		list.Batches = append(list.Batches, b)
	}
	return list, nil
}

// Verification is the report of verify.
type Verification struct {
	SchemaVersion int  `json:"schema_version"`
	OK            bool `json:"ok"`
	*store.Report
}

// Verified is the report, with the processes that are left of workers. The message says of one what is wrong, with a verb for it.
func Verified(report *store.Report, left []processes.Process, message string) *Verification {
	for _, p := range left {
		report.Findings = append(report.Findings, store.Finding{Invariant: store.OneEngine, Message: fmt.Sprintf(message, p)})
	}
	return &Verification{SchemaVersion: SchemaVersion, OK: !report.Broken(), Report: report}
}

// Source is where reports come from: the daemon, or the state folder where none runs.
type Source interface {
	Status(context.Context) (*Status, error)
	// Batches are those in a state, or all with state "".
	Batches(ctx context.Context, state store.State) (*Batches, error)
	Batch(ctx context.Context, id string) (*Batch, error)
	// Verify proves the invariants of one batch, or of all with id "".
	Verify(ctx context.Context, id string) (*Verification, error)
}

// Daemon is what the server answers from.
type Daemon interface {
	Source
	// Ready returns the engine's state, and as the error why the daemon cannot take files, nil if it can.
	Ready() (engine.State, error)
}

// Server answers on a Unix socket.
type Server struct{ http *http.Server }

// ErrorBody is what an error looks like: OpenAI's envelope.
type ErrorBody struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	} `json:"error"`
}

// Listen starts a server on the socket. One that is left over from a dead daemon is replaced.
func Listen(path string, d Daemon) (*Server, error) {
	if err := makeSocketFolder(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	s := &Server{&http.Server{Handler: guard(routes(d)), ReadHeaderTimeout: 10 * time.Second}}
	go s.http.Serve(l)
	return s, nil
}

// makeSocketFolder makes the folder, and refuses one below /tmp that somebody else made: he could put his own socket there.
func makeSocketFolder(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	st, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if owner, ok := ownerOf(st); filepath.Dir(dir) == "/tmp" && ok && owner != os.Geteuid() {
		return fmt.Errorf("%s belongs to user %d", dir, owner)
	}
	return nil
}

func removeStale(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode().Type() != os.ModeSocket {
		return errors.New("something that is not a socket is in the way")
	}
	if conn, err := net.Dial("unix", path); err == nil {
		conn.Close()
		return store.ErrInUse
	}
	return os.Remove(path)
}

// Close stops answering.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	return err
}

func routes(d Daemon) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { ready(w, d) })
	mux.HandleFunc("GET /api/v1/status", answer(func(r *http.Request) (any, error) { return d.Status(r.Context()) }))
	mux.HandleFunc("GET /api/v1/batches", answer(func(r *http.Request) (any, error) {
		return d.Batches(r.Context(), store.State(r.URL.Query().Get("state")))
	}))
	mux.HandleFunc("GET /api/v1/batches/{id}", answer(func(r *http.Request) (any, error) { return d.Batch(r.Context(), r.PathValue("id")) }))
	mux.HandleFunc("GET /api/v1/verify", answer(func(r *http.Request) (any, error) {
		return d.Verify(r.Context(), r.URL.Query().Get("id"))
	}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "there is no "+r.Method+" "+r.URL.Path)
	})
	return mux
}

func ready(w http.ResponseWriter, d Daemon) {
	state, err := d.Ready()
	body := struct {
		Ready  bool         `json:"ready"`
		Reason string       `json:"reason,omitzero"`
		Engine engine.State `json:"engine"`
	}{Ready: err == nil, Engine: state}
	code := http.StatusOK
	if err != nil {
		body.Reason, code = err.Error(), http.StatusServiceUnavailable
	}
	write(w, code, body)
}

func answer(f func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := f(r)
		switch {
		case err == nil:
			write(w, http.StatusOK, body)
		case errors.Is(err, store.ErrNotFound):
			refuse(w, http.StatusNotFound, err.Error())
		default:
			refuse(w, http.StatusInternalServerError, err.Error())
		}
	}
}

// refuse answers with an error, of the type that OpenAI gives such.
func refuse(w http.ResponseWriter, code int, message string) {
	var body ErrorBody
	body.Error.Message, body.Error.Type = message, "invalid_request_error"
	if code >= http.StatusInternalServerError {
		body.Error.Type = "server_error"
	}
	write(w, code, body)
}

func write(w http.ResponseWriter, code int, body any) {
	b, err := json.Marshal(body, json.Deterministic(true))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	w.Write(b) // a client that has gone is not our trouble
}
