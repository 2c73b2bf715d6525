// Package worker holds the Python worker that runs vLLM, and puts it where the interpreter finds it.
package worker

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"stoker/store/durable"
)

//go:embed worker.py stoker_worker/*.py
var files embed.FS

// Script is the file that the interpreter runs: a script, not a folder, because vLLM's spawned processes import it
// again and bind their lives to their parent's there.
const Script = "worker.py"

// Install writes the worker into a folder of dir that is named after its contents, unless it is there, and returns the
// script's path. Folders of other versions are left to running workers.
func Install(dir string) (script string, err error) {
	version, err := digest()
	if err != nil {
		return "", err
	}
	home := filepath.Join(dir, version)
	if _, err := os.Stat(filepath.Join(home, Script)); err == nil {
		return filepath.Join(home, Script), nil
	}
	if err := install(home); err != nil {
		return "", fmt.Errorf("install worker in %s: %w", home, err)
	}
	return filepath.Join(home, Script), nil
}

// install fills a temporary folder and renames it, so that a crash leaves no half of a worker.
func install(home string) error {
	if err := durable.MkdirAll(durable.Local{}, filepath.Dir(home), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(home), ".worker-*.tmp")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := errors.Join(os.CopyFS(tmp, files), os.Chmod(tmp, 0o755)); err != nil {
		return err
	}
	if err := os.Rename(tmp, home); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// digest tells the worker's contents from others.
func digest() (string, error) {
	sum := sha256.New()
	err := fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := files.ReadFile(path)
		fmt.Fprintf(sum, "%s %d\n%s", path, len(b), b)
		return err
	})
	return fmt.Sprintf("%x", sum.Sum(nil)[:6]), err
}
