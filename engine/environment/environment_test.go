package environment

import "testing"

func TestLookup(t *testing.T) {
	env := []string{"A=1", "AB=2", "EMPTY=", "A=x=y", "odd", "=C:"}
	for name, want := range map[string]struct {
		value string
		set   bool
	}{
		"A": {"x=y", true}, "AB": {"2", true}, "EMPTY": {"", true}, "odd": {"", false}, "B": {"", false},
	} {
		value, set := Lookup(env, name)
		if value != want.value || set != want.set || Get(env, name) != want.value {
			t.Errorf("%s is %q, set %t; want %q, %t", name, value, set, want.value, want.set)
		}
	}
}
