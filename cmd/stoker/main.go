// Stoker runs JSONL batches of LLM requests that people drop into a folder.
package main

import (
	"os"

	"stoker/engine"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == engine.EchoCommand {
		os.Exit(runEchoWorker())
	}
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, environ: os.Environ()}
	os.Exit(a.run(os.Args[1:]))
}

// runEchoWorker is this binary as its own rehearsal engine, started by the supervisor.
func runEchoWorker() int {
	requests, replies := os.NewFile(3, "requests"), os.NewFile(4, "replies")
	if err := engine.RunEcho(requests, replies); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		return 1
	}
	return 0
}
