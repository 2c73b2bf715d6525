package config

import (
	"reflect"
	"slices"
)

// needsRestart lists the keys, tables with all below them, that a stoker that runs cannot change: the folders in which it
// works, the engine that is loaded, what it listens on, and how it watches and logs.
func needsRestart() []key {
	return []key{{"paths"}, {"engine"}, {"api"}, {"inbox", "watch"}, {"inbox", "require_mount"}, {"log", "format"}}
}

// Reload is what comes of reading the configuration again.
type Reload struct {
	Config  Config   // what is to be in effect: the new settings, but for those that wait
	Changed []string // keys that take effect
	Waiting []string // keys that take effect at the next start
}

// Replace compares the configuration in effect with one that was read since.
func (c *Config) Replace(by *Config) Reload {
	r := Reload{Config: *by}
	for _, k := range needsRestart() {
		at(reflect.ValueOf(&r.Config).Elem(), k).Set(at(reflect.ValueOf(c).Elem(), k))
	}
	differences(reflect.ValueOf(c).Elem(), reflect.ValueOf(by).Elem(), nil, func(k key) {
		if slices.ContainsFunc(needsRestart(), k.isIn) {
			r.Waiting = append(r.Waiting, k.String())
		} else {
			r.Changed = append(r.Changed, k.String())
		}
	})
	return r
}

// isIn reports whether k is the other key, or below it.
func (k key) isIn(table key) bool { return len(k) >= len(table) && slices.Equal(k[:len(table)], table) }

// at is the field of a struct that a key of it stands for.
func at(v reflect.Value, k key) reflect.Value {
	for _, name := range k {
		v, _ = field(v, name)
	}
	return v
}

// differences visits the keys of values that differ, those of a user's own tables in the order of their names.
func differences(a, b reflect.Value, k key, visit func(key)) {
	switch {
	case isText(a.Type()):
	case a.Kind() == reflect.Struct:
		for i, name := range fieldNames(a.Type()) {
			differences(a.Field(i), b.Field(i), k.child(name), visit)
		}
		return
	case a.Kind() == reflect.Map:
		for _, name := range namesOf(a, b) {
			differences(member(a, name), member(b, name), k.child(name), visit)
		}
		return
	}
	if !reflect.DeepEqual(a.Interface(), b.Interface()) {
		visit(k)
	}
}

func namesOf(maps ...reflect.Value) (names []string) {
	for _, m := range maps {
		for _, name := range m.MapKeys() {
			names = append(names, name.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// member is a map's value, or the zero value if it has none of this name.
func member(m reflect.Value, name string) reflect.Value {
	if v := m.MapIndex(reflect.ValueOf(name)); v.IsValid() {
		return v
	}
	return reflect.Zero(m.Type().Elem())
}
