package config

import (
	"encoding"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// binder stores decoded TOML in a Config, notes where each value came from, and collects everything that does not fit
// instead of stopping at the first.
type binder struct {
	origins map[string]Origin // by key
	errs    Errors
}

// bind stores value in dst, which stands for k. Tables are merged into what is there; all else replaces it.
func (b *binder) bind(dst reflect.Value, k key, value any, from source) {
	switch {
	case isText(dst.Type()):
		b.leaf(dst, k, value, from)
	case dst.Kind() == reflect.Struct:
		b.table(dst, k, value, from)
	case dst.Kind() == reflect.Map:
		b.entries(dst, k, value, from)
	default:
		b.leaf(dst, k, value, from)
	}
}

func (b *binder) table(dst reflect.Value, k key, value any, from source) {
	table, ok := b.asTable(k, value, from)
	if !ok {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		member := k.child(name)
		if f, known := field(dst, name); known {
			b.bind(f, member, table[name], from)
			continue
		}
		b.errs = append(b.errs, from.of(member).refuse(member, &badValue{
			message: "unknown key",
			hint:    keyHint(member, fieldNames(dst.Type())),
		}))
	}
}

// entries stores a table whose names are the user's.
func (b *binder) entries(dst reflect.Value, k key, value any, from source) {
	table, ok := b.asTable(k, value, from)
	if !ok || len(table) == 0 {
		return
	}
	if dst.IsNil() {
		dst.Set(reflect.MakeMap(dst.Type()))
	}
	if free, ok := dst.Interface().(map[string]any); ok {
		b.merge(free, k, table, from)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(table)) {
		member := k.child(name)
		entry := reflect.New(dst.Type().Elem()).Elem()
		if old := dst.MapIndex(reflect.ValueOf(name)); old.IsValid() {
			entry.Set(old)
		}
		b.origins[member.String()] = from.of(member)
		b.bind(entry, member, table[name], from)
		dst.SetMapIndex(reflect.ValueOf(name), entry)
	}
}

// merge puts what is in table into dst, tables within tables too.
func (b *binder) merge(dst map[string]any, k key, table map[string]any, from source) {
	for name, value := range table {
		member := k.child(name)
		inner, isTable := value.(map[string]any)
		if !isTable || len(inner) == 0 {
			dst[name] = value
			b.origins[member.String()] = from.of(member)
			continue
		}
		old, ok := dst[name].(map[string]any)
		if !ok {
			old = make(map[string]any)
			dst[name] = old
		}
		b.origins[member.String()] = from.of(member)
		b.merge(old, member, inner, from)
	}
}

func (b *binder) leaf(dst reflect.Value, k key, value any, from source) {
	if err := assign(dst, value); err != nil {
		b.errs = append(b.errs, from.of(k).refuse(k, err))
		return
	}
	b.origins[k.String()] = from.of(k)
}

func (b *binder) asTable(k key, value any, from source) (map[string]any, bool) {
	table, ok := value.(map[string]any)
	if !ok {
		b.errs = append(b.errs, from.of(k).refuse(k, wantGot("a table", kindOf(value))))
	}
	return table, ok
}

// assign stores a decoded value in the setting dst, or says in the user's words what is wanted there.
func assign(dst reflect.Value, value any) error {
	if isText(dst.Type()) {
		return assignText(dst, value)
	}
	switch v := value.(type) {
	case string:
		if dst.Kind() == reflect.String {
			dst.SetString(v)
			return nil
		}
	case bool:
		if dst.Kind() == reflect.Bool {
			dst.SetBool(v)
			return nil
		}
	case int64:
		switch dst.Kind() {
		case reflect.Int:
			dst.SetInt(v)
			return nil
		case reflect.Float64:
			dst.SetFloat(float64(v))
			return nil
		}
	case float64:
		if dst.Kind() == reflect.Float64 {
			dst.SetFloat(v)
			return nil
		}
	case []any:
		if dst.Kind() == reflect.Slice {
			return assignStrings(dst, v)
		}
	}
	return wantGot(wanted(dst), kindOf(value))
}

func assignText(dst reflect.Value, value any) error {
	text, ok := value.(string)
	if n, isNumber := value.(int64); isNumber && dst.Kind() == reflect.Int { // a number, or a word for one
		text, ok = strconv.FormatInt(n, 10), true
	}
	if !ok {
		return wantGot(wanted(dst), kindOf(value))
	}
	return dst.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text))
}

func assignStrings(dst reflect.Value, values []any) error {
	list := make([]string, len(values))
	for i, value := range values {
		text, ok := value.(string)
		if !ok {
			return wantGot(wanted(dst), fmt.Sprintf("%s as item %d", kindOf(value), i+1))
		}
		list[i] = text
	}
	dst.Set(reflect.ValueOf(list))
	return nil
}

// wanted says what values dst takes.
func wanted(dst reflect.Value) string {
	if w, ok := dst.Interface().(interface{ want() string }); ok {
		return w.want()
	}
	switch dst.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "an integer"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "an array of strings"
	}
	return "a string"
}

// kindOf names the kind of a decoded TOML value. It never tells the value, which may be a secret.
func kindOf(value any) string {
	switch value.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

// isTime reports whether a decoded TOML value is one of TOML's four kinds of dates and times.
func isTime(value any) bool {
	switch value.(type) {
	case time.Time, toml.LocalDateTime, toml.LocalDate, toml.LocalTime:
		return true
	}
	return false
}

// refuse makes the error for a value that came from o.
func (o Origin) refuse(k key, err error) *Error {
	e := &Error{Key: k.String(), Message: err.Error()}
	if bad, ok := errors.AsType[*badValue](err); ok {
		e.Hint = bad.hint
	}
	switch o.Source {
	case FromFile:
		e.File, e.Line, e.Column = o.Name, o.Line, o.Column
	case FromEnvironment, FromFlag:
		e.Source = o.String()
	}
	return e
}
