package config

import (
	"encoding"
	"errors"
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0s":      0,
		"2s":      2 * time.Second,
		"500ms":   500 * time.Millisecond,
		"1.5h":    90 * time.Minute,
		"1h30m":   90 * time.Minute,
		"30d":     30 * 24 * time.Hour,
		"1d12h":   36 * time.Hour,
		"106751d": 106751 * 24 * time.Hour,
	} {
		if got, err := ParseDuration(text); err != nil || got != want {
			t.Errorf("ParseDuration(%q) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "0", "2", "-2s", "d", "s", "1.5d", "-1d", "1d-1s", "1d2", "106751d24h", "106752d", "99999999999d", "1w", "2 s", "auto",
	} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("ParseDuration(%q) = %v, want an error", text, got)
		}
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]Size{
		"0B": 0, "1B": 1, "512KB": 512_000, "512 KB": 512_000, "16MiB": 16 << 20, "16mib": 16 << 20, "1GiB": 1 << 30, "2TB": 2e12,
	} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %d, %v, want %d", text, int64(got), err, int64(want))
		}
	}
	for _, text := range []string{"", "16", "MiB", "-1MiB", "1.5MiB", "16M", "16MiBs", "9999999999TiB", "99999999999999999999B"} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %d, want an error", text, int64(got))
		}
	}
}

func TestModes(t *testing.T) {
	for text, want := range map[string]Mode{"0664": 0o664, "664": 0o664, "0o640": 0o640, "0777": 0o777} {
		var got Mode
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%q is %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "6", "0689", "02775", "-664", "rw-r--r--", "0x1b4"} {
		var got Mode
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %v, want an error", text, got)
		}
	}
}

func TestTextRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, math.MaxInt64).Draw(t, "duration"))
		if rapid.Bool().Draw(t, "whole seconds") {
			d = d.Truncate(time.Second)
		}
		roundTrip[Duration](t, Duration(d))
		roundTrip[AutoDuration](t, AutoDuration{Value: d})
		roundTrip[AutoDuration](t, AutoDuration{Auto: true})
		roundTrip[Size](t, Size(rapid.Int64Range(0, math.MaxInt64).Draw(t, "size")))
		roundTrip[Mode](t, Mode(rapid.Uint32Range(0, 0o777).Draw(t, "mode")))
	})
}

func roundTrip[T comparable, P interface {
	*T
	encoding.TextUnmarshaler
}](t *rapid.T, want encoding.TextMarshaler) {
	text, err := want.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var got T
	if err := P(&got).UnmarshalText(text); err != nil {
		t.Fatalf("%#v is written as %q: %v", want, text, err)
	}
	if any(got) != any(want) {
		t.Fatalf("%#v is written as %q and read as %#v", want, text, got)
	}
}

// FuzzUnits reads any text: what is taken can be written, and then means the same.
func FuzzUnits(f *testing.F) {
	for _, text := range []string{"auto", "0s", "1d12h", "1.5h", "106751d24h", "-1ns", "16MiB", "512 kb", "9999999999TiB", "0664", "0o7", "٣s", "1d-0s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		readAgain[Duration](t, text)
		readAgain[AutoDuration](t, text)
		readAgain[Size](t, text)
		readAgain[Mode](t, text)
		var d Duration
		if d.UnmarshalText([]byte(text)) == nil && d < 0 {
			t.Fatalf("%q is %v", text, d)
		}
		var s Size
		if s.UnmarshalText([]byte(text)) == nil && s < 0 {
			t.Fatalf("%q is %v", text, s)
		}
	})
}

func readAgain[T comparable, P interface {
	*T
	encoding.TextUnmarshaler
	encoding.TextMarshaler
}](t *testing.T, text string) {
	var first, second T
	if err := P(&first).UnmarshalText([]byte(text)); err != nil {
		if err.Error() == "" {
			t.Fatalf("%q is refused without a word", text)
		}
		return
	}
	written, err := P(&first).MarshalText()
	if err == nil {
		err = P(&second).UnmarshalText(written)
	}
	if err != nil || first != second {
		t.Fatalf("%q is read as %v, written as %q and read as %v: %v", text, first, written, second, err)
	}
}

func TestWordsAreTheirOwnText(t *testing.T) {
	var c Config
	for _, w := range []interface {
		encoding.TextUnmarshaler
		words() []string
	}{&c.Inbox.Watch, &c.Inbox.Ready, &c.Inbox.Duplicates, &c.Outbox.Order, &c.Engine.Kind, &c.Log.Format} {
		for _, word := range w.words() {
			if err := w.UnmarshalText([]byte(word)); err != nil {
				t.Error(err)
			}
		}
		err := w.UnmarshalText([]byte("nothing of the sort"))
		if _, ok := errors.AsType[*badValue](err); !ok {
			t.Errorf("%T took a word that it does not have: %v", w, err)
		}
	}
}

func TestNearest(t *testing.T) {
	candidates := []string{"python", "model", "max_model_len", "warn"}
	for word, want := range map[string]string{
		"pyton": "python", "pyhton": "python", "MODEL": "model", "max_model_length": "max_model_len",
		"warning": "warn", "x": "", "wibble": "", "pants": "",
	} {
		if got := nearest(word, candidates); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
