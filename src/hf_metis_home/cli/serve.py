"""
Serve a two-branch model: one name, one threshold, and a header that says which branch answered.

With `transformers serve` as the engine, from the model's folder:

    metis-home serve --model_name_or_path runs/demo/hybrid

With vLLM, in an environment that has it:

    metis-home serve --model_name_or_path runs/demo/hybrid --engine vllm --port 8000
"""

import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ._arguments import flag
from ._run import verb


@dataclass
class ServeArguments:
    model_name_or_path: str = flag("two-branch model, folder or Hub id")
    engine: Literal["transformers", "vllm"] = flag("engine that generates", "transformers")
    host: str = flag("address to listen on; 0.0.0.0 for all interfaces", "127.0.0.1")
    port: int = flag("port to listen on", 8000)
    export_dir: str = flag("folder for the exports that serving needs; written if missing", "runs/serving")
    served_model_name: str | None = flag(
        "the model's name for clients, besides `auto` (default: the folder's name)", None
    )
    thinking_threshold: float | None = flag("threshold of requests that set none (default: the model's)", None)
    fallback: Literal["thinking", "non_thinking"] = flag(
        "branch to use when routing fails, times out or is overloaded", "non_thinking"
    )
    router_device: str = flag("device of the router, e.g. cuda:0", "cpu")
    router_timeout: float = flag("seconds a request waits for the router", 10.0)
    image_hosts: list[str] | None = flag("hosts with private addresses that images may come from", None)
    start_seconds: float = flag("seconds the engine may take to start", 900.0)
    engine_args: str | None = flag("flags for the engine: --engine_args='--dtype bfloat16'", None)


@verb
def main(arguments: ServeArguments) -> None:
    """Run `metis-home serve`."""
    from .._extras import require_extra

    needed = ["httpx", "prometheus_client", "starlette", "uvicorn"]
    require_extra("serve", *needed, *(["fastapi", "openai"] if arguments.engine == "transformers" else []))
    from ..conversion.fingerprint import calibration_problem
    from ..conversion.vllm_export import ROUTER
    from ..modeling.configuration_metis_home import BRANCHES
    from ..serving import launch
    from ..serving.settings import ServingSettings, api_key

    api_key()
    launch.check_port(arguments.host, arguments.port)
    launch.check_device(arguments.router_device)
    try:
        engine_args = shlex.split(arguments.engine_args or "")
    except ValueError as error:
        raise ValueError(
            f"`engine_args` is {arguments.engine_args!r}, which cannot be split into words ({error}). Quote it as a "
            "whole: --engine_args='--dtype bfloat16'."
        ) from None
    if arguments.engine == "vllm":
        launch.find_vllm()
    model, threshold = launch.hybrid_folder(arguments.model_name_or_path)
    if problem := calibration_problem(model):
        print(f"warning: {problem}", file=sys.stderr)
    transformers = arguments.engine == "transformers"
    # Settings are checked before anything is written.
    settings: dict = {
        "model_name": arguments.served_model_name or model.name,
        # The model's, and not that of an export, which may be older than the last calibration.
        "thinking_threshold": threshold if arguments.thinking_threshold is None else arguments.thinking_threshold,
        "fallback": arguments.fallback,
        "router_device": arguments.router_device,
        "router_timeout": arguments.router_timeout,
        "image_hosts": arguments.image_hosts or [],
    }
    if transformers:
        settings |= {"branch_by": "generation_config", "branch_models": dict.fromkeys(BRANCHES, f"./{model.name}")}
    ServingSettings(router="", **settings)
    folder = Path(arguments.export_dir).resolve() / f"{model.name}-{'router' if transformers else 'vllm'}"
    folder = launch.exported(model, folder, "router" if transformers else "vllm")
    serve = launch.serve_transformers if transformers else launch.serve_vllm
    served, router = (model, folder) if transformers else (folder, folder / ROUTER)
    checked = ServingSettings(router=str(router), **settings)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, with the engine
    try:
        serve(served, checked, arguments.host, arguments.port, engine_args, arguments.start_seconds)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    raise SystemExit(main())
