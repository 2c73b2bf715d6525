package main

import (
	"os"
	"strings"

	"github.com/spf13/cobra"

	"stoker/engine/pyenv"
	"stoker/packaging/service"
)

// newSetupCommand makes `stoker setup`.
func newSetupCommand(a *app) *cobra.Command {
	var cpu, cuda bool
	var o pyenv.Options
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Make, or adopt, the Python environment with the vLLM that fits the machine",
		Long: `Makes a virtual environment with the vLLM that fits the machine, and a first configuration that names it.

An environment that already has a fitting vLLM is adopted instead: the one that --python names, the active one, or that of
python3 on PATH. What is in place stays as it is, so setup may be interrupted and run again. It says what it will download,
and where to, before it does. Nothing is installed into an environment that it did not make, and a configuration that
somebody wrote or changed is left alone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case cpu:
				o.Device = pyenv.CPU
			case cuda:
				o.Device = pyenv.CUDA
			}
			o.Environ, o.Out, o.RunWith = a.environ, a.stdout, a.commandLine("run")
			var err error
			superuser := os.Geteuid() == 0
			if o.Places, err = pyenv.DefaultPlaces(a.root, a.configPath, a.environ, superuser); err != nil {
				return err
			}
			// Without --root the superuser prepares the system service, which runs as another user.
			o.Shared = superuser && a.root == ""
			if o.Shared && service.New(service.Options{}).UnitFile() != "" {
				o.RunWith = "systemctl enable --now stoker"
			}
			return pyenv.Setup(cmd.Context(), o)
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&cpu, "cpu", false, "vLLM for the CPU, whatever the machine has")
	flags.BoolVar(&cuda, "cuda", false, "vLLM for NVIDIA GPUs, whatever the machine has")
	flags.StringVar(&o.Python, "python", "", "interpreter or environment's folder: adopted if it has vLLM, else what the new environment is made with")
	flags.BoolVar(&o.DemoModel, "demo-model", false, "make a small model to try stoker with (SmolLM2-135M-Instruct, 100 MB)")
	flags.BoolVar(&o.DryRun, "dry-run", false, "say what would be done, and do nothing")
	cmd.MarkFlagsMutuallyExclusive("cpu", "cuda")
	return cmd
}

// commandLine is a command of stoker with the same --root and --config, for hints.
func (a *app) commandLine(command string) string {
	words := []string{"stoker"}
	if a.root != "" {
		words = append(words, "--root", a.root)
	}
	if a.configPath != "" {
		words = append(words, "--config", a.configPath)
	}
	return strings.Join(append(words, command), " ")
}
