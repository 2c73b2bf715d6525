package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"stoker/daemon/config"
)

// stream is a file as systemd connects one with its journal, and the variable by which it says so.
func stream(t *testing.T) (*os.File, string) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "stream"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	sys := st.Sys().(*syscall.Stat_t)
	return f, fmt.Sprintf("JOURNAL_STREAM=%d:%d", sys.Dev, sys.Ino)
}

func TestJournal(t *testing.T) {
	f, variable := stream(t)
	log, _, err := newLogger(f, config.Log{Level: "debug", Format: config.LogAuto}, []string{variable})
	if err != nil {
		t.Fatal(err)
	}
	log = log.With().Str("part", "inbox").Logger()
	log.Debug().Msg("looked")
	log.Info().Str("name", "a\nb").Int("n", 2).Msg("taken")
	log.Warn().Err(errors.New("no\nlines")).Msg("cannot")
	log.Error().Msg("lost")
	log.WithLevel(zerolog.FatalLevel).Msg("dead")
	log.WithLevel(zerolog.NoLevel).Msg("progress")
	got, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	want := `<7>looked part=inbox
<6>taken n=2 name="a\nb" part=inbox
<4>cannot error="no\nlines" part=inbox
<3>lost part=inbox
<2>dead part=inbox
<6>progress part=inbox
`
	if string(got) != want {
		t.Errorf("the journal gets\n%s\nwant\n%s", got, want)
	}
}

// A process that inherits the variable, but whose errors go elsewhere, does not write for the journal.
func TestInheritedJournalStream(t *testing.T) {
	_, variable := stream(t)
	other, _ := stream(t)
	for name, environ := range map[string][]string{"another stream's": {variable}, "none": nil, "nonsense": {"JOURNAL_STREAM=x"}} {
		log, _, err := newLogger(other, config.Log{Level: "info", Format: config.LogAuto}, environ)
		if err != nil {
			t.Fatal(err)
		}
		log.Info().Msg("x")
		if got, err := os.ReadFile(other.Name()); err != nil || !bytes.HasPrefix(got, []byte(`{"level":"info"`)) {
			t.Errorf("with %s it writes %q, %v", name, got, err)
		}
	}
}

// The level changes for loggers that were made before.
func TestLogLevelChanges(t *testing.T) {
	var out bytes.Buffer
	log, level, err := newLogger(&out, config.Log{Level: "warn", Format: config.LogJSON}, nil)
	if err != nil {
		t.Fatal(err)
	}
	part := log.With().Str("part", "x").Logger()
	part.Info().Msg("one")
	level.set("debug")
	part.Debug().Msg("two")
	level.set("nonsense")
	part.Debug().Msg("three")
	level.set("error")
	part.Warn().Msg("four")
	part.WithLevel(zerolog.NoLevel).Msg("five")
	for _, c := range []struct {
		text string
		want bool
	}{{"one", false}, {"two", true}, {"three", true}, {"four", false}, {"five", true}} {
		if got := bytes.Contains(out.Bytes(), []byte(c.text)); got != c.want {
			t.Errorf("%q is logged: %v, want %v", c.text, got, c.want)
		}
	}
}

// What ends stoker is an error in the journal too, each line of it.
func TestErrorsInTheJournal(t *testing.T) {
	f, variable := stream(t)
	a := &app{stderr: f, environ: []string{variable}}
	a.say("one\ntwo", "three")
	want := "<3>stoker: error: one\n<3>two\n<3>stoker: hint: three\n"
	if got, err := os.ReadFile(f.Name()); err != nil || string(got) != want {
		t.Errorf("the journal gets %q, %v, want %q", got, err, want)
	}
}
