package config

import (
	"encoding"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// key is the way to a value: the names of its tables, then its own.
type key []string

var bareName = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)

// String is the key as TOML writes it, names in quotes where they need them.
func (k key) String() string {
	names := make([]string, len(k))
	for i, name := range k {
		names[i] = quoteName(name)
	}
	return strings.Join(names, ".")
}

func (k key) child(name string) key { return append(slices.Clip(k), name) }

func quoteName(name string) string {
	if bareName.MatchString(name) {
		return name
	}
	// The library knows how to quote it, as the only key of a document.
	line, err := toml.Marshal(map[string]int{name: 0})
	if err != nil {
		return "?" // not reached: every name that TOML can read, it can write
	}
	return strings.TrimSuffix(string(line), " = 0\n")
}

// field returns the field of the struct v that stands for name in TOML.
func field(v reflect.Value, name string) (reflect.Value, bool) {
	for i, n := range fieldNames(v.Type()) {
		if n == name {
			return v.Field(i), true
		}
	}
	return reflect.Value{}, false
}

// fieldNames returns the TOML names of the fields of the struct type t, in their order.
func fieldNames(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get("toml")
	}
	return names
}

// knownKeys returns the keys whose names are fixed, tables included, in the order of the structs.
func knownKeys(t reflect.Type, prefix key) []key {
	var keys []key
	if t.Kind() != reflect.Struct || isText(t) {
		return nil
	}
	for i, name := range fieldNames(t) {
		k := prefix.child(name)
		keys = append(append(keys, k), knownKeys(t.Field(i).Type, k)...)
	}
	return keys
}

// isText reports whether values of t are written as a string that t reads itself.
func isText(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// keyHint names the key that an unknown one was probably meant to be: a near one in the same table, else one of the
// same name in another table.
func keyHint(unknown key, siblings []string) string {
	last := len(unknown) - 1
	if hint := didYouMean(nearest(unknown[last], siblings)); hint != "" {
		return hint
	}
	for _, k := range knownKeys(reflect.TypeFor[Config](), nil) {
		if len(k) > 1 && k[len(k)-1] == unknown[last] {
			return didYouMean(k.String())
		}
	}
	return ""
}
