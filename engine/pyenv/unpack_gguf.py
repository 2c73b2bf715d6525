"""Unpacks a GGUF file to a model folder as vLLM loads it without plug-ins: bfloat16 safetensors with tokenizer.

Arguments: the GGUF file, a folder with the packages gguf and accelerate, the folder to make. They are needed here only,
so they are kept out of the environment that this runs in.
"""

import os
import sys


def main() -> None:
    gguf, tools, folder = sys.argv[1:]
    sys.path.append(tools)

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source, name = os.path.split(gguf)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        gguf_file=name,
        dtype=torch.float32,
        quantization_config=GgufConfig(gguf_file=name, dequantize=True),
    ).to(torch.bfloat16)
    # The weights no longer are what this describes, and vLLM would believe it.
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)


main()
