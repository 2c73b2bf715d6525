package config

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// CheckRunnable tells whether the configuration is enough to start an engine: whatever serves a model needs to know
// which. Commands that start no engine do without. The error matches ErrInvalid.
func (c *Config) CheckRunnable() error {
	if c.Engine.Kind == KindVLLM && c.Engine.Model == "" {
		return &Error{
			Key:     "engine.model",
			Message: `no model is set`,
			Hint:    `set it in the configuration, like model = "google/gemma-3-4b-it" below [engine], or as STOKER_ENGINE__MODEL`,
		}
	}
	return nil
}

func (c *checks) engine() {
	e := c.loaded.Engine
	c.positive(key{"engine", "load_stall"}, e.LoadStall)
	c.positive(key{"engine", "hang"}, e.Hang)
	c.notNegative(key{"engine", "max_model_len"}, e.MaxModelLen)
	c.notNegative(key{"engine", "in_flight"}, e.InFlight)
	// Written so that NaN is refused too.
	if u := e.GPUMemoryUtilization; !(u >= 0 && u <= 1) {
		c.refuse(key{"engine", "gpu_memory_utilization"}, "it is the share of the GPU's memory, like 0.9",
			"want a number over 0, up to 1, or 0 for the engine's default, got %v", u)
	}
	if len(e.ServedNames) == 0 || slices.Contains(e.ServedNames, "") {
		c.refuse(key{"engine", "served_names"}, `"*" lets a line name any model`, "want at least one name, and none empty")
	}
	c.environment()
	switch e.Kind {
	case KindVLLM:
		c.vllmArgs()
	case KindEcho:
		c.echoArgs()
	}
}

func (c *checks) notNegative(k key, n int) {
	if n < 0 {
		c.refuse(k, "", "want 0 or more, got %d", n)
	}
}

func (c *checks) environment() {
	for _, name := range sortedNames(c.loaded.Engine.Env) {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			c.refuse(key{"engine", "env", name}, "", "%q cannot be an environment variable's name", name)
		}
		if strings.Contains(c.loaded.Engine.Env[name], "\x00") {
			c.refuse(key{"engine", "env", name}, "", "the value contains a zero byte")
		}
	}
}

// vllmArgs leaves it to vLLM, which knows its arguments by version, to judge all but the spelling.
func (c *checks) vllmArgs() {
	inEngine := map[string]string{"served_model_name": "served_names"}
	for _, name := range fieldNames(reflect.TypeFor[Engine]()) {
		inEngine[name] = name
	}
	for _, name := range sortedNames(c.loaded.Engine.Args) {
		k := key{"engine", "args", name}
		python := strings.ReplaceAll(strings.TrimLeft(name, "-"), "-", "_")
		switch own := inEngine[python]; {
		case own != "":
			c.refuse(k, "set `engine."+own+"` instead", "this argument has a setting of its own")
		case python != name:
			c.refuse(k, didYouMean(python), "want the argument's Python name")
		default:
			c.json(k, c.loaded.Engine.Args[name])
		}
	}
}

// echoArgs checks all: the echo engine is stoker's own.
func (c *checks) echoArgs() {
	known := []struct {
		name  string
		check func(value any) error
	}{
		{"delay", wantDelay}, {"load_delay", wantDelay}, {"fail_every", wantCount}, {"crash_on", wantText}, {"hang_on", wantText},
	}
	names := make([]string, len(known))
	for i, arg := range known {
		names[i] = arg.name
	}
	for _, name := range sortedNames(c.loaded.Engine.Args) {
		k := key{"engine", "args", name}
		i := slices.Index(names, name)
		if i < 0 {
			hint := cmp.Or(didYouMean(nearest(name, names)), "it has "+strings.Join(names, ", "))
			c.refuse(k, hint, "the echo engine has no such argument")
		} else if err := known[i].check(c.loaded.Engine.Args[name]); err != nil {
			c.refuse(k, "", "%s", err)
		}
	}
}

func wantDelay(value any) error {
	text, ok := value.(string)
	if !ok {
		return wantGot(wantDuration, kindOf(value))
	}
	_, err := ParseDuration(text)
	return err
}

func wantCount(value any) error {
	if n, ok := value.(int64); !ok || n < 0 {
		return wantGot("an integer of 0 or more", describe(value))
	}
	return nil
}

func wantText(value any) error {
	if _, ok := value.(string); !ok {
		return wantGot("a string", kindOf(value))
	}
	return nil
}

// sortedNames makes the order of errors the same each time.
func sortedNames[V any](table map[string]V) []string { return slices.Sorted(maps.Keys(table)) }
