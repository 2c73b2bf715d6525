package store

import (
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"stoker/store/batchfile"
	"stoker/store/layout"
)

// FileName is a name as the filesystem holds it: bytes, not always UTF-8. In JSON it is a string, or {"base64":"…"}
// where a string could not hold it.
type FileName string

// rawName is how a name that is not UTF-8 stands in JSON.
type rawName struct {
	Base64 []byte `json:"base64"`
}

// MarshalJSONTo implements json.MarshalerTo.
func (n FileName) MarshalJSONTo(e *jsontext.Encoder) error {
	if utf8.ValidString(string(n)) {
		return e.WriteToken(jsontext.String(string(n)))
	}
	return json.MarshalEncode(e, rawName{[]byte(n)})
}

// UnmarshalJSONFrom implements json.UnmarshalerFrom.
func (n *FileName) UnmarshalJSONFrom(d *jsontext.Decoder) error {
	if d.PeekKind() != jsontext.KindBeginObject {
		return json.UnmarshalDecode(d, (*string)(n))
	}
	var raw rawName
	err := json.UnmarshalDecode(d, &raw)
	*n = FileName(raw.Base64)
	return err
}

// String returns the name for people and logs, with what is not UTF-8 replaced.
func (n FileName) String() string { return strings.ToValidUTF8(string(n), "\uFFFD") }

// maxName is the longest file name of common filesystems, in bytes; LongestSuffix what stoker appends at most.
const (
	maxName       = layout.MaxName
	LongestSuffix = len("~9999.duplicate.json")
)

// SplitInputName tells a batch file's name from its suffixes: "x.jsonl.gz" is "x", gzip. ok is false for a name that no
// batch file has. A stem too long for the suffixes of result files is cut at a character boundary.
func SplitInputName(name string) (stem string, c batchfile.Compression, ok bool) {
	name, c = batchfile.CompressionOf(name)
	cut := len(name) - len(suffixInput)
	if cut <= 0 || !strings.EqualFold(name[cut:], suffixInput) {
		return "", batchfile.Plain, false
	}
	return CutName(name[:cut], LongestSuffix), c, true
}

const suffixInput = ".jsonl"

// CutName cuts a stem, at a character boundary, so that this many bytes fit behind it in a file's name.
func CutName(stem string, room int) string {
	n := maxName - room
	if len(stem) <= n {
		return stem
	}
	for back := range utf8.UTFMax { // a name that is not UTF-8 is cut anywhere
		if utf8.RuneStart(stem[n-back]) {
			return stem[:n-back]
		}
	}
	return stem[:n]
}

// nameKey is a reserved name's key in bbolt: a queue is a folder name and holds no slash.
func nameKey(queue string, name FileName) []byte { return []byte(queue + "/" + string(name)) }
