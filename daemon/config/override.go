package config

import (
	"maps"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/pelletier/go-toml/v2"
)

const envPrefix = "STOKER_"

// environment binds the variables that name a setting: STOKER_ENGINE__MODEL is engine.model. Names without a double
// underscore are other people's.
func (b *binder) environment(c *Config, env map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		path, ours := strings.CutPrefix(name, envPrefix)
		if !ours || !strings.Contains(path, "__") {
			continue
		}
		from := source{origin: Origin{Source: FromEnvironment, Name: name}}
		k, dst, known := locate(reflect.ValueOf(c).Elem(), strings.Split(path, "__"))
		if !known {
			b.errs = append(b.errs, from.origin.refuse(k, &badValue{
				message: "names no setting",
				hint:    didYouMean(nearest(name, envNames())),
			}))
			continue
		}
		b.override(c, k, dst, env[name], from)
	}
}

// overrides binds what flags say, by dotted keys.
func (b *binder) overrides(c *Config, overrides map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		from := source{origin: Origin{Source: FromFlag, Name: name}}
		k, dst, known := locate(reflect.ValueOf(c).Elem(), strings.Split(name, "."))
		if !known {
			b.errs = append(b.errs, from.origin.refuse(k, &badValue{message: "names no setting"}))
			continue
		}
		b.override(c, k, dst, overrides[name], from)
	}
}

// override binds one value as if a file with nothing but it had been read.
func (b *binder) override(c *Config, k key, dst reflect.Type, text string, from source) {
	if !utf8.ValidString(text) {
		b.errs = append(b.errs, from.origin.refuse(k, &badValue{message: "want UTF-8"}))
		return
	}
	value := parseValue(text, dst)
	for _, name := range slices.Backward(k) {
		value = map[string]any{name: value}
	}
	b.bind(reflect.ValueOf(c).Elem(), nil, value, from)
}

// place is somewhere in a configuration: a type, and the value that is there; invalid where the user's tables have
// none yet.
type place struct {
	t reflect.Type
	v reflect.Value
}

// locate finds the setting that names lead to, whatever their case, and its type. If there is none the key ends with
// the name that is unknown.
func locate(c reflect.Value, names []string) (k key, t reflect.Type, known bool) {
	at := place{c.Type(), c}
	for _, name := range names {
		name, at, known = at.member(name)
		k = k.child(name)
		if !known {
			return k, nil, false
		}
	}
	return k, at.t, true
}

// member finds what name means at p, and its exact name.
func (p place) member(name string) (string, place, bool) {
	switch {
	case name == "":
		return name, place{}, false
	case p.t.Kind() == reflect.Struct && !isText(p.t):
		name = strings.ToLower(name)
		f, known := field(p.orZero(), name)
		if !known {
			return name, place{}, false
		}
		return name, place{f.Type(), f}, true
	case p.t.Kind() == reflect.Map:
		return p.entry(name, p.t.Elem())
	case p.t.Kind() == reflect.Interface: // a table within engine arguments or request parameters, or about to be one
		return place{p.t, p.orZero().Elem()}.entry(name, p.t)
	}
	return name, place{}, false
}

func (p place) orZero() reflect.Value {
	if p.v.IsValid() {
		return p.v
	}
	return reflect.Zero(p.t)
}

// entry finds the member of a table whose names are the user's: one that is there already, else a new one. New ones
// are in lower case, as engine arguments and request parameters are, but for environment variables.
func (p place) entry(name string, elem reflect.Type) (string, place, bool) {
	if p.v.IsValid() && p.v.Kind() == reflect.Map {
		for _, existing := range p.v.MapKeys() {
			if strings.EqualFold(existing.String(), name) {
				return existing.String(), place{elem, p.v.MapIndex(existing)}, true
			}
		}
	}
	if elem.Kind() != reflect.String {
		name = strings.ToLower(name)
	}
	return name, place{t: elem}, true
}

// parseValue reads text as a TOML value for a setting of type dst, and takes it as it is where that is what must be
// meant: it is not one TOML value, the setting takes only strings, or it is a date, which no setting takes.
func parseValue(text string, dst reflect.Type) any {
	var document map[string]any
	err := toml.Unmarshal([]byte("value = "+text), &document)
	value := document["value"]
	if _, isString := value.(string); isString && err == nil && len(document) == 1 {
		return value
	}
	if err != nil || len(document) != 1 || isTime(value) || isText(dst) || dst.Kind() == reflect.String {
		return text
	}
	return value
}

// envNames lists the variables of all settings whose names are fixed.
func envNames() []string {
	var names []string
	for _, k := range knownKeys(reflect.TypeFor[Config](), nil) {
		if len(k) > 1 {
			names = append(names, envPrefix+strings.ToUpper(strings.Join(k, "__")))
		}
	}
	return names
}
