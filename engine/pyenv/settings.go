package pyenv

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"text/template"

	"github.com/pelletier/go-toml/v2"

	"stoker/store/durable"
)

//go:embed settings.toml.tmpl
var settingsTemplate string

// settings are what Setup writes into a first configuration.
type settings struct {
	Device Device
	Python string // environment's folder or interpreter
	Model  string // "": left for the user to name
	Dist   string
	VLLM   string
}

// newSettings are those for an environment and, if not "", a model.
func newSettings(env Interpreter, model string) settings {
	return settings{Device: env.Device(), Python: location(env), Model: model, Dist: env.Dist, VLLM: env.VLLM}
}

// document is the configuration file's text.
func (s settings) document() ([]byte, error) {
	t, err := template.New("settings").Funcs(template.FuncMap{"toml": tomlString}).Parse(settingsTemplate)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := t.Execute(&out, s); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// tomlString writes s as a TOML string, in double quotes where that takes no escapes.
func tomlString(s string) (string, error) {
	if quoted := strconv.Quote(s); len(quoted) == len(s)+2 {
		return quoted, nil
	}
	out, err := toml.Marshal(map[string]string{"v": s})
	return string(bytes.TrimSpace(bytes.TrimPrefix(out, []byte("v = ")))), err
}

// outcome is what became of the configuration file.
type outcome int

const (
	written outcome = iota // there was none, or one that Setup had written and nobody touched
	kept                   // it already says the same, as far as Setup is concerned
	foreign                // it is the user's and says something else: it is left alone
)

// write writes the configuration to path unless the user has one.
func (s settings) write(path string) (outcome, error) {
	text, err := s.document()
	if err != nil {
		return 0, err
	}
	old, err := os.ReadFile(path)
	switch {
	case err == nil && (bytes.Equal(old, text) || s.sameAs(old)):
		return kept, nil
	case err == nil && !s.untouched(old):
		return foreign, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("read the configuration: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return 0, fmt.Errorf("write the configuration: %w", err)
	}
	return written, durable.WriteFile(durable.Local{}, path, text, 0o644)
}

// untouched reports whether old is what Setup wrote before a model was asked for.
func (s settings) untouched(old []byte) bool {
	s.Model = ""
	text, err := s.document()
	return err == nil && bytes.Equal(old, text)
}

// engineTable is what Setup looks at in a configuration.
type engineTable struct {
	Model, Python string
	Args          map[string]any
}

func readEngine(text []byte) (engineTable, error) {
	var have struct{ Engine engineTable }
	err := toml.Unmarshal(text, &have)
	return have.Engine, err
}

// sameAs reports whether old names the same environment and, where Setup made one, the same model. For a CPU it must have
// some arguments, too: without any, vLLM takes nearly all memory.
func (s settings) sameAs(old []byte) bool {
	have, err := readEngine(old)
	return err == nil && have.Python == s.Python && (s.Model == "" || have.Model == s.Model) && (s.Device != CPU || len(have.Args) > 0)
}

// namesModel reports whether a configuration is enough to run.
func namesModel(path string) bool {
	text, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	have, err := readEngine(text)
	return err == nil && have.Model != ""
}
