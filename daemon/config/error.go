package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrInvalid is what every error about the configuration's content, or about reading its file, matches with errors.Is.
var ErrInvalid = errors.New("invalid configuration")

// Error is one thing wrong with the configuration.
type Error struct {
	File    string // the file at fault; "" if it is not a file
	Line    int    // from 1; 0 if unknown or not a file
	Column  int    // in bytes, from 1; 0 if unknown or not a file
	Source  string // what is at fault where it is not a file, such as "environment STOKER_ENGINE__KIND"
	Key     string // dotted, such as "engine.kind"; "" if it concerns no single key
	Message string
	Hint    string // what to do about it; "" if there is nothing to say
}

// Error tells all but the hint, as FILE:LINE:COLUMN: KEY: MESSAGE.
func (e *Error) Error() string {
	var parts []string
	switch {
	case e.File != "" && e.Line > 0:
		parts = append(parts, fmt.Sprintf("%s:%d:%d", e.File, e.Line, e.Column))
	case e.File != "":
		parts = append(parts, e.File)
	case e.Source != "":
		parts = append(parts, e.Source)
	}
	// The name of a variable or a flag already says which key it sets.
	if e.Key != "" && e.Source == "" {
		parts = append(parts, e.Key)
	}
	return strings.Join(append(parts, e.Message), ": ")
}

// Is reports whether target is ErrInvalid.
func (e *Error) Is(target error) bool { return target == ErrInvalid }

// Errors is several things wrong at once, in the order of the file.
type Errors []*Error

// Error has a line for each, its hint in parentheses.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
		if e.Hint != "" {
			lines[i] += " (" + e.Hint + ")"
		}
	}
	return strings.Join(lines, "\n")
}

// Is reports whether target is ErrInvalid.
func (es Errors) Is(target error) bool { return target == ErrInvalid }

// All returns the single errors that err consists of; nil if it is not of this package.
func All(err error) []*Error {
	if es, ok := errors.AsType[Errors](err); ok {
		return es
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return []*Error{e}
	}
	return nil
}

// err is nil, the only error, or all of them in the order of the file; what is not in the file comes last.
func (es Errors) err() error {
	switch len(es) {
	case 0:
		return nil
	case 1:
		return es[0]
	}
	slices.SortStableFunc(es, func(a, b *Error) int {
		return cmp.Or(
			-cmp.Compare(a.File, b.File), // one file at most; the environment and flags have none
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
			cmp.Compare(a.Source, b.Source),
			cmp.Compare(a.Key, b.Key))
	})
	return es
}

// badValue is why a value does not fit its key.
type badValue struct {
	message string
	hint    string
}

func (e *badValue) Error() string { return e.message }

func wantGot(want, got string) *badValue {
	return &badValue{message: "want " + want + ", got " + got}
}
