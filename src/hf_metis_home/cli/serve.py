"""
Serve a two-branch model: one name, one dial, and a header that says which branch answered.

With `transformers serve` as the engine, from the model's folder:

    metis-home serve --model_name_or_path runs/demo/hybrid

With vLLM, in an environment that has it:

    metis-home serve --model_name_or_path runs/demo/hybrid --engine vllm --port 8000
"""

import shlex
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ._run import run_verb


@dataclass
class ServeArguments:
    model_name_or_path: str = field(metadata={"help": "two-branch model, folder or Hub id"})
    engine: Literal["transformers", "vllm"] = field(default="transformers", metadata={"help": "what generates"})
    host: str = field(default="127.0.0.1", metadata={"help": "address to listen at; 0.0.0.0 for all of this machine"})
    port: int = field(default=8000, metadata={"help": "port to listen at"})
    export_dir: str = field(
        default="runs/serving",
        metadata={"help": "where the exports that serving needs are kept; written when missing"},
    )
    served_model_name: str | None = field(
        default=None, metadata={"help": "what clients call the model, beside `auto`; the folder's name by default"}
    )
    thinking_threshold: float | None = field(
        default=None, metadata={"help": "the dial for requests that set none; the model's own by default"}
    )
    fallback: Literal["thinking", "non_thinking"] = field(
        default="non_thinking", metadata={"help": "branch where the router fails or has too much to do"}
    )
    router_device: str = field(default="cpu", metadata={"help": "device of the router, e.g. cuda:0"})
    router_timeout: float = field(default=10.0, metadata={"help": "seconds that a request waits for the router"})
    image_hosts: list[str] | None = field(
        default=None, metadata={"help": "hosts that images may come from although their addresses are private"}
    )
    start_seconds: float = field(default=900.0, metadata={"help": "how long the engine may take to start"})
    engine_args: str | None = field(
        default=None, metadata={"help": "further flags for the engine, as one text: --engine_args='--dtype bfloat16'"}
    )


def main(argv: list[str] | None = None) -> int:
    """`metis-home serve`. Takes the flags, gives the exit code."""
    return run_verb("serve", ServeArguments, _serve, argv, __doc__)


def _serve(arguments: ServeArguments) -> None:
    from .._extras import require_extra

    needed = ["httpx", "prometheus_client", "pydantic", "starlette", "uvicorn"]
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
            f"`engine_args` is {arguments.engine_args!r}, which is no list of words ({error}). Quote it for the shell "
            "as a whole: --engine_args='--dtype bfloat16'."
        ) from None
    if arguments.engine == "vllm":
        launch.find_vllm()
    model, threshold = launch.hybrid_folder(arguments.model_name_or_path)
    if problem := calibration_problem(model):
        print(f"warning: {problem}", file=sys.stderr)
    name = arguments.served_model_name or model.name
    transformers = arguments.engine == "transformers"
    # Settings are checked before anything is written.
    settings: dict = {
        "model_name": name,
        # The model's, and not that of an export, which may be older than the last calibration.
        "thinking_threshold": threshold if arguments.thinking_threshold is None else arguments.thinking_threshold,
        "fallback": arguments.fallback,
        "router_device": arguments.router_device,
        "router_timeout": arguments.router_timeout,
        "image_hosts": arguments.image_hosts or [],
    }
    if transformers:
        settings |= {
            "branch_by": "generation_config",
            "branch_models": dict.fromkeys(BRANCHES, f"./{model.name}"),
        }
    ServingSettings(router="", **settings)
    folder = Path(arguments.export_dir).resolve() / f"{model.name}-{'router' if transformers else 'vllm'}"
    folder = launch.exported(model, folder, "router" if transformers else "vllm")
    router = folder if transformers else folder / ROUTER
    serve = launch.serve_transformers if transformers else launch.serve_vllm
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, with the engine
    try:
        serve(
            model if transformers else folder,
            ServingSettings(router=str(router), **settings),
            arguments.host,
            arguments.port,
            engine_args,
            arguments.start_seconds,
        )
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
