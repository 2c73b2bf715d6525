// Render writes the files of the packages that are made from the unit's template: render FOLDER.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"stoker/packaging"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: render FOLDER")
		os.Exit(2)
	}
	if err := render(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func render(dir string) error {
	unit, err := packaging.PackagedUnit().Render()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "stoker.service"), []byte(unit), 0o644)
}
