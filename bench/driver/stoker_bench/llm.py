"""`LLM.chat`, what a user's script would call: all files in one call, or file after file."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs

SAMPLING = ("temperature", "top_p", "top_k", "max_tokens", "ignore_eos")


def start(job: dict[str, Any]) -> "Script":
    """Load the model. Arguments of the server's front end mean nothing to this class."""
    known = {field.name for field in dataclasses.fields(EngineArgs)}
    args = {name: value for name, value in job["args"].items() if name in known}
    return Script(LLM(model=job["model"], **args), Path(job["folder"]))


class Script:
    """A script with a loaded model."""

    def __init__(self, llm: LLM, folder: Path) -> None:
        self._llm = llm
        self._folder = folder

    def limits(self) -> dict[str, Any]:
        """What the engine was loaded with."""
        return {"max_num_seqs": self._llm.llm_engine.vllm_config.scheduler_config.max_num_seqs}

    def run(self, way: str, files: list[str]) -> dict[str, Any]:
        """Run the files; the answers are written, too."""
        began = time.monotonic()
        calls = [files] if way == "llm-chat" else [[file] for file in files]
        counts = [self._call(call) for call in calls]
        requests, tokens = map(sum, zip(*counts, strict=True))
        return {"seconds": time.monotonic() - began, "requests": requests, "failed": 0, "tokens": tokens}

    def _call(self, files: list[str]) -> tuple[int, int]:
        lines = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
        bodies = [line["body"] for line in lines]
        params = [SamplingParams(**{name: body[name] for name in SAMPLING if name in body}) for body in bodies]
        answers = self._llm.chat([body["messages"] for body in bodies], params, use_tqdm=False)
        outputs = [answer.outputs[0] for answer in answers]
        with open(self._folder / "llm.output.jsonl", "w") as out:
            for line, output in zip(lines, outputs, strict=True):
                out.write(json.dumps({"custom_id": line["custom_id"], "response": output.text}) + "\n")
        return len(outputs), sum(len(output.token_ids) for output in outputs)
