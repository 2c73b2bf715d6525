package batchfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

var (
	errNotObject    = errors.New("must be one JSON object")
	errTrailingData = errors.New("something follows the object")
	errNotJSON      = errors.New("not JSON")
)

// syntaxError makes the error of a line that is not one JSON object in UTF-8; end is where its reading stopped.
func syntaxError(text []byte, err error, end int) *LineError {
	if at := invalidByte(text); at >= 0 {
		return &LineError{Code: CodeInvalidEncoding, Message: fmt.Sprintf("not UTF-8: byte 0x%02x", text[at]), Column: at + 1}
	}
	fault := &LineError{Code: CodeInvalidJSON, Message: err.Error()}
	if syntax, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		fault.Message = syntaxMessage(syntax)
		end = int(syntax.ByteOffset)
	} else if errors.Is(err, errNotObject) && !jsontext.Value(text).IsValid(jsontext.AllowDuplicateNames(true)) {
		fault.Message = "not JSON" // its first letter may look like that of null or true
	}
	fault.Column = len(text) - len(bytes.TrimLeft(text[end:], " \t\r")) + 1
	return fault
}

func syntaxMessage(err *jsontext.SyntacticError) string {
	switch {
	case errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Sprintf("repeated member %q", err.JSONPointer.LastToken())
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "unexpected end: the line is cut off, or the object goes on in the next one"
	}
	return err.Err.Error()
}

// invalidByte returns where the first byte stands that is not UTF-8, -1 if all are.
func invalidByte(text []byte) int {
	if utf8.Valid(text) {
		return -1
	}
	at := 0
	for {
		r, size := utf8.DecodeRune(text[at:])
		if r == utf8.RuneError && size <= 1 {
			return at
		}
		at += size
	}
}
