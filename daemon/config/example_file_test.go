package config

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const exampleFile = "../../config.example.toml"

// commentedDefault is a line that holds a default; prose begins with two #.
var commentedDefault = regexp.MustCompile(`(?m)^# ([a-z_]+ = )`)

func TestExampleFileHoldsTheDefaults(t *testing.T) {
	document, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, document := range map[string][]byte{
		"as it is":              document,
		"every default written": commentedDefault.ReplaceAll(document, []byte("$1")),
	} {
		t.Run(name, func(t *testing.T) {
			loaded, err := load("/etc/stoker/config.toml", document, Options{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			want := Default()
			want.Engine.Model = "google/gemma-3-4b-it" // the one setting that everybody makes
			if diff := cmp.Diff(want, loaded.Config, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("the example differs from Default (-want +got):\n%s", diff)
			}
		})
	}
}

func TestExampleFileHasEverySetting(t *testing.T) {
	document, err := os.ReadFile(exampleFile)
	if err != nil {
		t.Fatal(err)
	}
	document = commentedDefault.ReplaceAll(document, []byte("$1"))
	written := fileSource(exampleFile, document).keys
	for _, k := range knownKeys(reflect.TypeFor[Config](), nil) {
		if k.String() == "queue" { // its tables are named by the user
			if !bytes.Contains(document, []byte("[queue.")) {
				t.Error("[queue.NAME.defaults] is not in the example")
			}
			continue
		}
		if _, ok := written[k.String()]; !ok {
			t.Errorf("%s is not in the example", k)
		}
	}
	for _, line := range strings.Split(string(document), "\n") {
		if strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "##") {
			t.Errorf("neither prose nor a setting: %s", line)
		}
	}
}

func TestExamplesLoad(t *testing.T) {
	files, err := filepath.Glob("../../examples/*.toml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			loaded, err := Load(Options{Path: file})
			if err != nil {
				t.Fatal(err)
			}
			if err := loaded.CheckRunnable(); err != nil {
				t.Error(err)
			}
		})
	}
}
