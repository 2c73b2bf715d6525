"""Ways of driving vLLM over batch files, for `stoker bench`."""
