package check

import (
	"bufio"
	"io"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/store/batchfile"
)

// JSON is a Printer for programs: one object with all files, written as it is found.
type JSON struct {
	w     *bufio.Writer
	enc   *jsontext.Encoder
	limit int
	seen  int
	begun bool
	ok    bool
}

// NewJSON returns a JSON printer that shows the first limit bad lines of each file; 0: all.
func NewJSON(w io.Writer, limit int) *JSON {
	buf := bufio.NewWriter(w)
	return &JSON{w: buf, enc: jsontext.NewEncoder(buf), limit: limit, ok: true}
}

func (j *JSON) Begin(path string) error {
	if err := j.open(); err != nil {
		return err
	}
	j.seen = 0
	return j.tokens(jsontext.BeginObject, jsontext.String("file"), jsontext.String(strings.ToValidUTF8(path, "\uFFFD")),
		jsontext.String("problems"), jsontext.BeginArray)
}

// problem is a bad line in the report.
type problem struct {
	Line     int64   `json:"line"`
	Column   int     `json:"column"` // byte column from 1
	Code     string  `json:"code"`
	Message  string  `json:"message"`
	CustomID *string `json:"custom_id"` // null if unreadable
}

func (j *JSON) Problem(e *batchfile.LineError) error {
	j.seen++
	if j.limit > 0 && j.seen > j.limit {
		return nil
	}
	p := problem{Line: e.Line, Column: max(1, e.Column), Code: e.Code, Message: e.Message}
	if e.HasID {
		p.CustomID = &e.CustomID
	}
	return json.MarshalEncode(j.enc, p)
}

// summary is what the report says of a file as a whole.
type summary struct {
	LeftOut        int              `json:"problems_left_out"`
	OK             bool             `json:"ok"`
	Error          string           `json:"error,omitzero"`   // why it could not be read to its end
	Refused        string           `json:"refused,omitzero"` // why it would fail as a whole
	Bytes          int64            `json:"bytes"`
	Lines          int64            `json:"lines"`
	Requests       int64            `json:"requests"`
	Valid          int64            `json:"valid"`
	Bad            int64            `json:"bad"`
	Forms          map[string]int64 `json:"forms"`
	URLs           map[string]int64 `json:"urls"`
	Codes          map[string]int64 `json:"codes"`
	MissingNewline bool             `json:"missing_newline"`
}

func (j *JSON) End(r *Report, failed error) error {
	s := summary{
		OK: failed == nil && r.OK(), Refused: r.Refused, Bytes: r.Bytes, Lines: r.Lines, MissingNewline: r.MissingNewline,
		Requests: r.Requests, Bad: r.Invalid(), Forms: names(r.ByForm), URLs: r.ByURL, Codes: r.ByCode,
	}
	s.Valid = s.Requests - s.Bad
	if failed != nil {
		s.Error = failed.Error()
	}
	if j.limit > 0 {
		s.LeftOut = max(0, j.seen-j.limit)
	}
	j.ok = j.ok && s.OK
	if err := j.tokens(jsontext.EndArray, jsontext.String("summary")); err != nil {
		return err
	}
	if err := json.MarshalEncode(j.enc, s, json.Deterministic(true)); err != nil {
		return err
	}
	return j.tokens(jsontext.EndObject)
}

// Close writes the end of the object.
func (j *JSON) Close() error {
	if err := j.open(); err != nil {
		return err
	}
	if err := j.tokens(jsontext.EndArray, jsontext.String("ok"), jsontext.Bool(j.ok), jsontext.EndObject); err != nil {
		return err
	}
	return j.w.Flush()
}

// open writes the begin of the object, once.
func (j *JSON) open() error {
	if j.begun {
		return nil
	}
	j.begun = true
	return j.tokens(jsontext.BeginObject, jsontext.String("schema_version"), jsontext.Int(1), jsontext.String("files"), jsontext.BeginArray)
}

func (j *JSON) tokens(all ...jsontext.Token) error {
	for _, t := range all {
		if err := j.enc.WriteToken(t); err != nil {
			return err
		}
	}
	return nil
}
