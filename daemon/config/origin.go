package config

import (
	"fmt"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Source is a kind of place that a setting can come from.
type Source string

// The sources, from the weakest to the strongest.
const (
	FromDefault     Source = "default"
	FromFile        Source = "file"
	FromEnvironment Source = "environment"
	FromFlag        Source = "flag"
)

// Origin is where the value of one setting came from.
type Origin struct {
	Source Source
	Name   string // the file, the environment variable, or the flag or key; "" for a default
	Line   int    // from 1; 0 if it is not a file
	Column int    // in bytes, from 1; 0 if it is not a file
}

// String is "default", "FILE:LINE", "environment NAME" or "flag NAME".
func (o Origin) String() string {
	switch o.Source {
	case FromFile:
		return fmt.Sprintf("%s:%d", o.Name, o.Line)
	case FromEnvironment, FromFlag:
		return string(o.Source) + " " + o.Name
	}
	return string(FromDefault)
}

// source is what one layer of settings was read from.
type source struct {
	origin Origin                       // without a position
	keys   map[string]unstable.Position // where the keys stand in a file; nil for other sources
}

// of is where k came from, with the position of the key itself.
func (s source) of(k key) Origin {
	o, at := s.origin, s.keys[k.String()]
	o.Line, o.Column = at.Line, at.Column
	return o
}

// fileSource finds where each key of a valid document stands. The library's decoder tells positions only of errors
// that it finds itself.
func fileSource(file string, document []byte) source {
	s := source{
		origin: Origin{Source: FromFile, Name: file},
		keys:   make(map[string]unstable.Position),
	}
	var p unstable.Parser
	p.Reset(document)
	var table key
	for p.NextExpression() {
		e := p.Expression()
		switch e.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = s.note(&p, nil, e.Key())
		case unstable.KeyValue:
			s.notePair(&p, table, e)
		}
	}
	return s
}

// note notes where each part of a key in table stands, the first time that it is seen, and returns the whole key.
func (s source) note(p *unstable.Parser, table key, parts unstable.Iterator) key {
	k := table
	for parts.Next() {
		k = k.child(string(parts.Node().Data))
		if _, seen := s.keys[k.String()]; !seen {
			s.keys[k.String()] = p.Shape(parts.Node().Raw).Start
		}
	}
	return k
}

func (s source) notePair(p *unstable.Parser, table key, pair *unstable.Node) {
	k := s.note(p, table, pair.Key())
	if pair.Value().Kind != unstable.InlineTable {
		return
	}
	for members := pair.Value().Children(); members.Next(); {
		s.notePair(p, k, members.Node())
	}
}
