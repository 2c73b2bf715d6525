package config

import (
	"bytes"
	"encoding"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/pelletier/go-toml/v2"
)

// hidden is shown in place of what may be a secret.
const hidden = "(hidden)"

// Setting is one effective value.
type Setting struct {
	Key   string // dotted
	Value any    // as decoded TOML; durations, sizes and the like as text; "(hidden)" where it may be a secret
	From  Origin

	table, name key // Key in two parts: the table that is declared, and the rest
}

// Settings lists every setting in the order of the structs, the user's own names in tables sorted.
func (l *Loaded) Settings() []Setting {
	var settings []Setting
	l.collect(reflect.ValueOf(l.Config), nil, nil, func(s Setting) { settings = append(settings, s) })
	return settings
}

// collect visits what is at v, which has the given name in table.
func (l *Loaded) collect(v reflect.Value, table, name key, visit func(Setting)) {
	whole := slices.Concat(table, name)
	switch {
	case isText(v.Type()):
	case v.Kind() == reflect.Struct:
		for i, n := range fieldNames(v.Type()) {
			l.collect(v.Field(i), whole, key{n}, visit)
		}
		return
	case v.Kind() == reflect.Interface:
		if inner, ok := v.Interface().(map[string]any); ok && len(inner) > 0 {
			l.collectEntries(v.Elem(), table, name, visit)
			return
		}
	case v.Kind() == reflect.Map:
		l.collectEntries(v, whole, nil, visit)
		return
	}
	visit(Setting{
		Key:   whole.String(),
		Value: l.shown(whole, v),
		From:  l.Origin(whole.String()),
		table: table,
		name:  name,
	})
}

func (l *Loaded) collectEntries(m reflect.Value, table, prefix key, visit func(Setting)) {
	names := m.MapKeys()
	slices.SortFunc(names, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
	for _, n := range names {
		l.collect(m.MapIndex(n), table, prefix.child(n.String()), visit)
	}
}

// shown is the value as it may be seen.
func (l *Loaded) shown(k key, v reflect.Value) any {
	switch {
	case k.String() == "api.socket":
		return l.SocketPath()
	case isSecret(k):
		return hidden
	}
	if r, ok := v.Interface().(Replicas); ok && r != AutoReplicas {
		return int64(r)
	}
	if text, ok := v.Interface().(encoding.TextMarshaler); ok {
		if b, err := text.MarshalText(); err == nil {
			return string(b)
		}
	}
	if v.Kind() == reflect.String {
		return v.String()
	}
	return v.Interface()
}

// isSecret reports whether a value must not be seen: the worker's environment, and engine arguments that are named as
// secrets are (vLLM has hf_token).
func isSecret(k key) bool {
	if len(k) < 3 || k[0] != "engine" {
		return false
	}
	if k[1] == "env" {
		return true
	}
	return k[1] == "args" && slices.ContainsFunc(k[2:], func(name string) bool {
		name = "_" + strings.ToLower(name)
		return slices.ContainsFunc([]string{"_token", "_key", "_secret", "_password"}, func(suffix string) bool {
			return strings.HasSuffix(name, suffix)
		})
	})
}

// WriteTOML writes every effective value and, in a comment, where it came from. What may be a secret is not shown.
func (l *Loaded) WriteTOML(w io.Writer) error {
	var out bytes.Buffer
	table := ""
	for _, s := range l.Settings() {
		if t := s.table.String(); t != table {
			if out.Len() > 0 {
				out.WriteByte('\n')
			}
			fmt.Fprintf(&out, "[%s]\n", t)
			table = t
		}
		value, err := tomlValue(s.Value)
		if err != nil {
			return fmt.Errorf("write %s as TOML: %w", s.Key, err)
		}
		fmt.Fprintf(&out, "%s = %s # from: %s\n", s.name, value, s.From)
	}
	_, err := w.Write(out.Bytes())
	return err
}

// tomlValue writes a value as it stands behind an equals sign.
func tomlValue(value any) (string, error) {
	var line strings.Builder
	e := toml.NewEncoder(&line)
	e.SetTablesInline(true)
	if err := e.Encode(map[string]any{"v": value}); err != nil {
		return "", err
	}
	return strings.TrimSpace(strings.TrimPrefix(line.String(), "v = ")), nil
}

// WriteJSON writes one object: schema_version 1, file (null if none was read), config with every effective value, and
// from, which tells by dotted key where a value that is not a default came from. What may be a secret is not shown.
func (l *Loaded) WriteJSON(w io.Writer) error {
	report := struct {
		SchemaVersion int               `json:"schema_version"`
		File          *string           `json:"file"`
		Config        map[string]any    `json:"config"`
		From          map[string]string `json:"from"`
	}{SchemaVersion: 1, Config: make(map[string]any), From: make(map[string]string)}
	if l.File != "" {
		report.File = &l.File
	}
	for _, s := range l.Settings() {
		put(report.Config, slices.Concat(s.table, s.name), s.Value)
		if s.From.Source != FromDefault {
			report.From[s.Key] = s.From.String()
		}
	}
	return writeJSON(w, report)
}

// put stores value in a tree of tables.
func put(tree map[string]any, k key, value any) {
	for _, name := range k[:len(k)-1] {
		inner, ok := tree[name].(map[string]any)
		if !ok {
			inner = make(map[string]any)
			tree[name] = inner
		}
		tree = inner
	}
	tree[k[len(k)-1]] = value
}

// WriteCheck reports what Load returned as one JSON object: schema_version 1, file, ok, and errors with file, line,
// column, source, key, message and hint.
func WriteCheck(w io.Writer, l *Loaded, err error) error {
	type fault struct {
		File    string `json:"file,omitzero"`
		Line    int    `json:"line,omitzero"`
		Column  int    `json:"column,omitzero"`
		Source  string `json:"source,omitzero"`
		Key     string `json:"key,omitzero"`
		Message string `json:"message"`
		Hint    string `json:"hint,omitzero"`
	}
	report := struct {
		SchemaVersion int     `json:"schema_version"`
		OK            bool    `json:"ok"`
		File          *string `json:"file"`
		Errors        []fault `json:"errors"`
	}{SchemaVersion: 1, OK: err == nil}
	if l != nil && l.File != "" {
		report.File = &l.File
	}
	for _, e := range All(err) {
		report.Errors = append(report.Errors, fault(*e))
		if e.File != "" {
			report.File = &e.File
		}
	}
	return writeJSON(w, report)
}

func writeJSON(w io.Writer, report any) error {
	err := json.MarshalWrite(w, report, json.Deterministic(true), jsontext.WithIndent("  "))
	if err != nil {
		return fmt.Errorf("write configuration as JSON: %w", err)
	}
	_, err = io.WriteString(w, "\n")
	return err
}
