"""What a user would run instead: vLLM's LLM.chat over batch files, one after another, in one warm process.

usage: chat_files.py CONFIG FILE...     CONFIG: stoker's, for the same model and engine arguments

Prints the seconds from the first file to the last answer, load not included, after one warm-up file of the same kind.
"""

import json
import os
import sys
import time
import tomllib


def read(path):
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def main():
    with open(sys.argv[1], "rb") as f:
        engine = tomllib.load(f)["engine"]
    os.environ.update(engine.get("env", {}), VLLM_LOGGING_LEVEL="ERROR")
    from vllm import LLM, SamplingParams

    llm = LLM(model=engine["model"], max_model_len=engine["max_model_len"], **engine.get("args", {}))

    def run(lines):
        params = [SamplingParams(max_tokens=r["max_tokens"], ignore_eos=True, temperature=0) for r in lines]
        answers = llm.chat([[{"role": "user", "content": r["prompt"]}] for r in lines], params, use_tqdm=False)
        return sum(len(a.outputs[0].token_ids) for a in answers)

    files = [read(path) for path in sys.argv[2:]]
    run(files[0])
    began = time.monotonic()
    tokens = sum(run(lines) for lines in files)
    print(json.dumps({"seconds": time.monotonic() - began, "tokens": tokens}))


if __name__ == "__main__":
    main()
