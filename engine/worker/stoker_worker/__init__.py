"""stoker's vLLM worker. It imports vLLM in one place only, `compat`; everything else runs and is tested without it."""
