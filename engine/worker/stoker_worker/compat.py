"""Every import of vLLM, and everything that differs between its versions. Written for 0.26 and 0.32.

vLLM promises no Python API for its OpenAI handlers. The seam used here is the one that its own `run-batch` stands on:
`init_app_state` fills a State with the handlers of the HTTP server, which take a request object and need no HTTP.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from starlette.datastructures import State
from starlette.responses import Response
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.reasoning import ReasoningParserManager
from vllm.tool_parsers import ToolParserManager
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

try:  # 0.32, where the older path of run_batch holds a stub that only warns
    from vllm.entrypoints.launchers import run_batch
    from vllm.renderers.chat_utils import validate_chat_template
except ImportError:  # 0.26
    from vllm.entrypoints.chat_utils import validate_chat_template
    from vllm.entrypoints.openai import run_batch

from .arguments import Refusing, nearest
from .fatal import Fatal
from .stats import Counters

__all__ = [
    "ENDPOINTS",
    "USAGE",
    "AsyncEngineArgs",
    "AsyncLLM",
    "Endpoint",
    "EngineDeadError",
    "ErrorResponse",
    "Response",
    "State",
    "argument_parser",
    "check",
    "configure",
    "create_error_response",
    "import_plugins",
    "init_app_state",
    "kv_cache_tokens",
    "max_num_seqs",
    "served_models",
    "stat_logger",
]

ErrorResponse = run_batch.ErrorResponse
create_error_response = run_batch.create_error_response
init_app_state = run_batch.init_app_state

# LLM_CLASS gives the batch sizes of vLLM's offline class; any other context starts with an eighth of them.
USAGE = UsageContext.LLM_CLASS

Handler = Callable[[Any], Awaitable[Any]]


class ArgumentParser(Refusing, run_batch.FlexibleArgumentParser):
    """vLLM's parser, raising BadValue where it would end the process."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What a URL takes and who answers it."""

    request: Any  # a model, or a union of them
    attribute: str  # where init_app_state puts the handler; absent or None where the model has no such task
    method: str | None  # of the handler; None: the handler is called itself
    limit: str | None = None  # the member that bounds the output, in tokens; None where nothing is generated
    by_alias: bool = False  # how the HTTP server serialises the answer

    def handler(self, state: State) -> Handler | None:
        """The handler of a loaded model; None if the model does not serve this URL."""
        serving = getattr(state, self.attribute, None)
        return getattr(serving, self.method) if serving is not None and self.method else serving

    def adapter(self) -> TypeAdapter[Any]:
        """What makes a request of a decoded body."""
        return TypeAdapter(self.request)

    def members(self) -> frozenset[str]:
        """The members that a request may have; empty for a union."""
        return frozenset(getattr(self.request, "model_fields", ()))


ENDPOINTS = {
    "/v1/chat/completions": Endpoint(
        run_batch.ChatCompletionRequest, "openai_serving_chat", "create_chat_completion", "max_tokens"
    ),
    "/v1/completions": Endpoint(CompletionRequest, "openai_serving_completion", "create_completion", "max_tokens"),
    "/v1/responses": Endpoint(
        ResponsesRequest, "openai_serving_responses", "create_responses", "max_output_tokens", by_alias=True
    ),
    "/v1/embeddings": Endpoint(run_batch.EmbeddingRequest, "serving_embedding", None),
    "/v1/score": Endpoint(run_batch.ScoreRequest, "serving_scores", None),
    "/v1/rerank": Endpoint(run_batch.RerankRequest, "serving_scores", None),
}


def argument_parser() -> ArgumentParser:
    """The parser of all engine and front end arguments that `vllm run-batch` takes."""
    return run_batch.make_arg_parser(ArgumentParser())


def import_plugins(args: Any) -> None:
    """Import the parser plugins that args name, as `vllm serve` does."""
    if args.tool_parser_plugin:
        ToolParserManager.import_tool_parser(args.tool_parser_plugin)
    if args.reasoning_parser_plugin:
        ReasoningParserManager.import_reasoning_parser(args.reasoning_parser_plugin)


def check(args: Any) -> None:
    """Find wrong arguments that vLLM would find only once the model is loaded. Raises Fatal, or what vLLM raises."""
    validate_chat_template(args.chat_template)
    if args.tool_call_parser:
        check_parser("tool_call_parser", args.tool_call_parser, ToolParserManager.list_registered())
    elif args.enable_auto_tool_choice:
        raise Fatal("bad_argument", "engine argument enable_auto_tool_choice needs tool_call_parser")
    if args.reasoning_parser:
        check_parser("reasoning_parser", args.reasoning_parser, ReasoningParserManager.list_registered())


def check_parser(argument: str, name: str, names: list[str]) -> None:
    """Raise Fatal if vLLM has no parser of this name."""
    if name not in names:
        near = nearest(name, names) or f"vLLM has {', '.join(sorted(names))}"
        raise Fatal("bad_argument", f"engine argument {argument}: vLLM has no {name!r}", near)


def configure(args: Any) -> Any:
    """The VllmConfig for parsed arguments: resolves the model, and so may ask the hub for it."""
    chosen = [args.max_cudagraph_capture_size, args.cudagraph_capture_sizes]
    chosen += [args.compilation_config.max_cudagraph_capture_size, args.compilation_config.cudagraph_capture_sizes]
    config = engine_config(args)
    if all(c is None for c in chosen) and graphs_end_early(config):
        args.max_cudagraph_capture_size = config.scheduler_config.max_num_seqs
        config = engine_config(args)
    return config


def engine_config(args: Any) -> Any:
    """The VllmConfig as vLLM makes it of parsed arguments."""
    return AsyncEngineArgs.from_cli_args(args).create_engine_config(USAGE)


def graphs_end_early(config: Any) -> bool:
    """Whether full batches run without CUDA graphs, which vLLM by default has for at most 512 requests. The processor then
    launches kernels one by one, and takes longer over it than an H100 over the kernels (docs/benchmarks.md)."""
    end = config.compilation_config.max_cudagraph_capture_size
    scheduler = config.scheduler_config
    return bool(end) and end < scheduler.max_num_seqs <= scheduler.max_num_batched_tokens and config.num_speculative_tokens == 0


def stat_logger(counters: Counters) -> Callable[..., StatLoggerBase]:
    """A factory of stat loggers for AsyncLLM, all of which fill counters."""

    class StatLogger(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            pass

        def record(self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0) -> None:
            counters.record(engine_idx, scheduler_stats, iteration_stats)

        def log_engine_initialized(self) -> None:
            pass

    return lambda vllm_config, engine_index=0: StatLogger(vllm_config, engine_index)


def max_num_seqs(config: Any) -> int:
    """How many requests the engine computes at a time, over all its data-parallel ranks."""
    return config.scheduler_config.max_num_seqs * config.parallel_config.data_parallel_size


def kv_cache_tokens(config: Any) -> int | None:
    """How many tokens the KV cache of a loaded engine holds; None if vLLM does not say."""
    cache = config.cache_config
    tokens = getattr(cache, "kv_cache_size_tokens", None)  # 0.32; right for hybrid models too
    if tokens is None and cache.num_gpu_blocks and cache.block_size:
        tokens = cache.num_gpu_blocks * cache.block_size
    return tokens


def served_models(state: State) -> tuple[str, frozenset[str]]:
    """The name under which answers come, and the other names that a request may give: aliases and LoRA adapters."""
    models = state.openai_serving_models
    base, *aliases = (path.name for path in models.base_model_paths)
    return base, frozenset(aliases) | frozenset(models.lora_requests)
