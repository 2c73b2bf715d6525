package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/term"

	"stoker/daemon/config"
)

// logLevel is the lowest level that is logged. It may be changed while loggers use it.
type logLevel struct{ lowest atomic.Int32 }

// Sample implements zerolog.Sampler.
func (l *logLevel) Sample(level zerolog.Level) bool { return level >= zerolog.Level(l.lowest.Load()) }

// set changes the level, to one that the configuration allows.
func (l *logLevel) set(name string) {
	if level, err := zerolog.ParseLevel(name); err == nil {
		l.lowest.Store(int32(level))
	}
}

// newLogger writes to w as [log] says. With format "auto" that is readable text on a terminal, lines with a priority
// prefix into systemd's journal, and JSON elsewhere.
func newLogger(w io.Writer, c config.Log, environ []string) (zerolog.Logger, *logLevel, error) {
	if _, err := zerolog.ParseLevel(c.Level); err != nil {
		return zerolog.Nop(), nil, err
	}
	level := new(logLevel)
	level.set(c.Level)
	format := c.Format
	if format == config.LogAuto {
		switch {
		case isTerminal(w):
			format = config.LogConsole
		case isJournal(w, environ):
			format = config.LogJournal
		default:
			format = config.LogJSON
		}
	}
	switch format {
	case config.LogConsole:
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: time.TimeOnly, NoColor: !isTerminal(w) || hasVariable(environ, "NO_COLOR")}
	case config.LogJournal:
		return zerolog.New(newJournalWriter(w)).Sample(level), level, nil // the journal has its own time
	}
	return zerolog.New(w).Sample(level).With().Timestamp().Logger(), level, nil
}

// journalWriter writes readable lines, each behind sd-daemon(3)'s priority, without time and colours.
type journalWriter struct {
	w    io.Writer
	text zerolog.ConsoleWriter
	line *bytes.Buffer
	mu   *sync.Mutex
}

func newJournalWriter(w io.Writer) journalWriter {
	line := new(bytes.Buffer)
	return journalWriter{w, zerolog.ConsoleWriter{Out: line, NoColor: true, PartsExclude: []string{zerolog.TimestampFieldName, zerolog.LevelFieldName}}, line, new(sync.Mutex)}
}

// Write implements io.Writer.
func (j journalWriter) Write(p []byte) (int, error) { return j.WriteLevel(zerolog.NoLevel, p) }

// WriteLevel implements zerolog.LevelWriter.
func (j journalWriter) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.line.Reset()
	fmt.Fprintf(j.line, "<%d>", priority(level))
	if _, err := j.text.Write(p); err != nil {
		return 0, err
	}
	if _, err := j.w.Write(j.line.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// priority is a level as syslog(3) numbers it.
func priority(level zerolog.Level) int {
	switch level {
	case zerolog.DebugLevel, zerolog.TraceLevel:
		return 7
	case zerolog.WarnLevel:
		return 4
	case zerolog.ErrorLevel:
		return 3
	case zerolog.FatalLevel, zerolog.PanicLevel:
		return 2
	}
	return 6
}

// isJournal reports whether w is what systemd connected with its journal: $JOURNAL_STREAM names that stream, and is
// inherited by processes that write elsewhere (systemd.exec(5)).
func isJournal(w io.Writer, environ []string) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && slices.Contains(environ, fmt.Sprintf("JOURNAL_STREAM=%d:%d", uint64(sys.Dev), sys.Ino))
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
