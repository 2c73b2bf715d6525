package main

import (
	"io"
	"os"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"stoker/daemon/config"
)

// newLogger writes to w as [log] says. With format "auto" that is readable text on a terminal, lines with a priority
// prefix under systemd's journal, and JSON elsewhere.
func newLogger(w io.Writer, c config.Log, environ []string) (zerolog.Logger, error) {
	level, err := zerolog.ParseLevel(c.Level)
	if err != nil {
		return zerolog.Nop(), err
	}
	format := c.Format
	if format == config.LogAuto {
		switch {
		case isTerminal(w):
			format = config.LogConsole
		case hasVariable(environ, "JOURNAL_STREAM"):
			format = config.LogJournal
		default:
			format = config.LogJSON
		}
	}
	switch format {
	case config.LogConsole:
		return zerolog.New(zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w) || hasVariable(environ, "NO_COLOR")}).
			Level(level).With().Timestamp().Logger(), nil
	case config.LogJournal:
		return zerolog.New(journalWriter{w}).Level(level), nil // the journal has its own time
	default:
		return zerolog.New(w).Level(level).With().Timestamp().Logger(), nil
	}
}

// journalWriter puts sd-daemon(3)'s priority before each line.
type journalWriter struct{ w io.Writer }

func (j journalWriter) Write(p []byte) (int, error) { return j.w.Write(p) }

func (j journalWriter) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	prefix := "<6>"
	switch level {
	case zerolog.DebugLevel, zerolog.TraceLevel:
		prefix = "<7>"
	case zerolog.WarnLevel:
		prefix = "<4>"
	case zerolog.ErrorLevel:
		prefix = "<3>"
	case zerolog.FatalLevel, zerolog.PanicLevel:
		prefix = "<2>"
	}
	if _, err := j.w.Write(append([]byte(prefix), p...)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

func hasVariable(environ []string, name string) bool {
	for _, v := range environ {
		if value, ok := strings.CutPrefix(v, name+"="); ok && value != "" {
			return true
		}
	}
	return false
}
