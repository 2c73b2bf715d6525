package batchfile

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"
)

// scanner finds values in a text that is valid JSON. It checks nothing: in any other text it finds something, but comes to
// an end.
type scanner struct {
	text []byte
	at   int // everything before was read
}

// next moves to the next value or token, over what may stand between two, and returns where it begins.
func (s *scanner) next() int {
	for s.at < len(s.text) {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n', ',', ':':
			s.at++
		default:
			return s.at
		}
	}
	return s.at
}

func (s *scanner) kind() jsontext.Kind {
	if s.next() == len(s.text) {
		return jsontext.KindInvalid
	}
	switch c := s.text[s.at]; {
	case c == '-', '0' <= c && c <= '9':
		return jsontext.KindNumber
	default:
		return jsontext.Kind(c)
	}
}

// token moves behind one byte, such as a bracket.
func (s *scanner) token() { s.at = min(s.next()+1, len(s.text)) }

// skip moves behind the next value.
func (s *scanner) skip() {
	switch s.kind() {
	case jsontext.KindString:
		s.skipString()
	case jsontext.KindBeginObject, jsontext.KindBeginArray:
		s.skipNested()
	default:
		s.skipLiteral()
	}
}

// skipString moves behind a string: behind the next quote that no backslash escapes.
func (s *scanner) skipString() {
	for end := s.at + 1; ; {
		n := bytes.IndexByte(s.text[min(end, len(s.text)):], '"')
		if n < 0 {
			s.at = len(s.text)
			return
		}
		quote := end + n
		escapes := 0
		for quote-escapes > end && s.text[quote-escapes-1] == '\\' {
			escapes++
		}
		end = quote + 1
		if escapes%2 == 0 {
			s.at = end
			return
		}
	}
}

func (s *scanner) skipNested() {
	for depth := 0; s.at < len(s.text); {
		switch s.text[s.at] {
		case '"':
			s.skipString()
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		s.at++
		if depth == 0 {
			return
		}
	}
}

// skipLiteral moves behind a number, true, false or null.
func (s *scanner) skipLiteral() {
	for s.token(); s.at < len(s.text); s.at++ {
		switch s.text[s.at] {
		case ' ', '\t', '\r', '\n', ',', ':', '}', ']', '"':
			return
		}
	}
}
