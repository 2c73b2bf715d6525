//go:build real

package real

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const (
	benchFiles = 6
	benchLines = 16
)

// benchFile makes lines whose answers differ in length as real ones do, which is what makes tails.
func benchFile(file int) []string {
	r := rand.New(rand.NewPCG(uint64(file), 7))
	var lines []string
	for i := range benchLines {
		tokens := min(max(8, int(r.ExpFloat64()*40)), 160)
		lines = append(lines, fmt.Sprintf(`{"custom_id":"%d-%d","prompt":"Write about topic %d of list %d.","max_tokens":%d,"ignore_eos":true,"temperature":0}`, file, i, i, file, tokens))
	}
	return lines
}

// BenchmarkSixFiles puts six small files through a warm stoker, dropped one after another, and through LLM.chat file by
// file in the same environment, in turns. It reports the means and their ratio.
func BenchmarkSixFiles(b *testing.B) {
	dir := b.TempDir()
	var paths []string
	for f := range benchFiles {
		path := filepath.Join(dir, fmt.Sprintf("f%d.jsonl", f))
		if err := os.WriteFile(path, []byte(strings.Join(benchFile(f), "\n")+"\n"), 0o644); err != nil {
			b.Fatal(err)
		}
		paths = append(paths, path)
	}
	var stoker, chat float64
	for range b.N {
		stoker += timeStoker(b)
		chat += timeChat(b, paths)
	}
	b.ReportMetric(stoker/float64(b.N), "s/stoker")
	b.ReportMetric(chat/float64(b.N), "s/LLM.chat")
	b.ReportMetric(chat/stoker, "ratio")
}

// timeStoker measures from the first drop to the last published batch, settling, syncs and all, with stoker's defaults.
func timeStoker(b *testing.B) float64 {
	s := newService(b, "STOKER_INBOX__SETTLE=auto")
	s.start()
	s.awaitReady()
	s.drop("warm-up.jsonl", benchFile(0))
	s.awaitEnded("warm-up")
	began := time.Now()
	for f := range benchFiles {
		s.drop(fmt.Sprintf("f%d.jsonl", f), benchFile(f))
	}
	for f := range benchFiles {
		s.awaitEnded(fmt.Sprintf("f%d", f))
	}
	took := time.Since(began).Seconds()
	for f := range benchFiles {
		if n := len(s.results(fmt.Sprintf("f%d.output.jsonl", f))); n != benchLines {
			b.Fatalf("file %d has %d answers", f, n)
		}
	}
	s.stop()
	return took
}

func timeChat(b *testing.B, paths []string) float64 {
	out, err := exec.Command(binary, "--config", config, "config", "show", "--json").Output()
	if err != nil {
		b.Fatal(err)
	}
	var set struct {
		Config struct{ Engine struct{ Python string } }
	}
	if err := json.Unmarshal(out, &set); err != nil {
		b.Fatal(err)
	}
	python := filepath.Join(set.Config.Engine.Python, "bin", "python")
	cmd := exec.Command(python, append([]string{"chat_files.py", config}, paths...)...)
	var log bytes.Buffer
	cmd.Stderr = &log
	out, err = cmd.Output()
	if err != nil {
		b.Fatalf("%v\n%s", err, log.String())
	}
	var last struct{ Seconds float64 }
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		b.Fatalf("%v in %s", err, out)
	}
	return last.Seconds
}
