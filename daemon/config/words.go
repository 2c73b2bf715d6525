package config

import (
	"strconv"
	"strings"
)

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Watch) UnmarshalText(text []byte) error { return parseWord(w, text, w.words()) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (r *Ready) UnmarshalText(text []byte) error { return parseWord(r, text, r.words()) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duplicates) UnmarshalText(text []byte) error { return parseWord(d, text, d.words()) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (o *Order) UnmarshalText(text []byte) error { return parseWord(o, text, o.words()) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (k *Kind) UnmarshalText(text []byte) error { return parseWord(k, text, k.words()) }

// UnmarshalText implements encoding.TextUnmarshaler.
func (f *LogFormat) UnmarshalText(text []byte) error { return parseWord(f, text, f.words()) }

func (Watch) words() []string {
	return []string{string(WatchAuto), string(WatchNotify), string(WatchPoll)}
}

func (Ready) words() []string {
	return []string{string(ReadySettle), string(ReadyRename), string(ReadySidecar)}
}

func (Duplicates) words() []string { return []string{string(DuplicatesRun), string(DuplicatesSkip)} }

func (Order) words() []string { return []string{string(OrderInput), string(OrderCompletion)} }

func (Kind) words() []string { return []string{string(KindVLLM), string(KindEcho)} }

func (LogFormat) words() []string {
	return []string{string(LogAuto), string(LogJSON), string(LogConsole), string(LogJournal)}
}

func (w Watch) want() string      { return wantOneOf(w.words()) }
func (r Ready) want() string      { return wantOneOf(r.words()) }
func (d Duplicates) want() string { return wantOneOf(d.words()) }
func (o Order) want() string      { return wantOneOf(o.words()) }
func (k Kind) want() string       { return wantOneOf(k.words()) }
func (f LogFormat) want() string  { return wantOneOf(f.words()) }

func wantOneOf(words []string) string { return "one of " + strings.Join(words, ", ") }

func parseWord[T ~string](dst *T, text []byte, words []string) error {
	for _, word := range words {
		if word == string(text) {
			*dst = T(word)
			return nil
		}
	}
	return notAWord(string(text), words)
}

func notAWord(got string, words []string) *badValue {
	err := wantGot(wantOneOf(words), strconv.Quote(got))
	err.hint = didYouMean(nearest(got, words))
	return err
}
