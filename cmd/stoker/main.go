// Stoker runs JSONL batches of LLM requests that people drop into a folder.
package main

import (
	"os"

	"stoker/engine/echo"
)

func main() {
	if ran, code := echo.Main(); ran { // started by the supervisor, as its own rehearsal engine
		os.Exit(code)
	}
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}
	os.Exit(a.run(os.Args[1:]))
}
