package store

import (
	"encoding/base64"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// FileName is a name as the filesystem holds it: bytes, not always UTF-8. In JSON it is a string, or {"base64":"…"}
// where a string could not hold it.
type FileName string

// MarshalJSONTo implements json.MarshalerTo.
func (n FileName) MarshalJSONTo(e *jsontext.Encoder) error {
	if utf8.ValidString(string(n)) {
		return e.WriteToken(jsontext.String(string(n)))
	}
	v := fmt.Sprintf(`{"base64":%q}`, base64.StdEncoding.EncodeToString([]byte(n)))
	return e.WriteValue(jsontext.Value(v))
}

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (n *FileName) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() == '"' {
		t, err := d.ReadToken()
		*n = FileName(t.String())
		return err
	}
	for { // {"base64":"…"}: the last string is the value
		t, err := d.ReadToken()
		if err != nil {
			return err
		}
		switch t.Kind() {
		case '}':
			return nil
		case '"':
			if s := t.String(); s != "base64" {
				b, err := base64.StdEncoding.DecodeString(s)
				if err != nil {
					return fmt.Errorf("file name: %w", err)
				}
				*n = FileName(b)
			}
		case '{':
		default:
			return fmt.Errorf("file name: unexpected %s", t.Kind())
		}
	}
}

// String returns the name for people and logs, with what is not UTF-8 replaced.
func (n FileName) String() string { return strings.ToValidUTF8(string(n), "\uFFFD") }

// Compression is how an input's bytes are packed, told by its suffix.
type Compression string

const (
	Plain Compression = ""
	Gzip  Compression = "gzip"
	Zstd  Compression = "zstd"
)

// maxName is the longest file name of common filesystems, in bytes; longestSuffix what stoker appends at most.
const (
	maxName       = 255
	longestSuffix = len("~9999.duplicate.json")
)

// SplitInputName tells a batch file's name from its suffixes: "x.jsonl.gz" is "x", gzip. ok is false for a name that no
// batch file has. A stem too long for the suffixes of result files is cut at a character boundary.
func SplitInputName(name string) (stem string, c Compression, ok bool) {
	lower := strings.ToLower(name)
	switch {
	case strings.HasSuffix(lower, ".jsonl"):
		stem = name[:len(name)-len(".jsonl")]
	case strings.HasSuffix(lower, ".jsonl.gz"):
		stem, c = name[:len(name)-len(".jsonl.gz")], Gzip
	case strings.HasSuffix(lower, ".jsonl.zst"):
		stem, c = name[:len(name)-len(".jsonl.zst")], Zstd
	}
	if stem == "" {
		return "", Plain, false
	}
	return cutName(stem, maxName-longestSuffix), c, true
}

func cutName(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// nameKey is a reserved name's key in bbolt: a queue is a folder name and holds no slash.
func nameKey(queue string, name FileName) []byte { return []byte(queue + "/" + string(name)) }
