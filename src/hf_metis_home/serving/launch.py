"""Start an engine with the router in front of it, wait until it is healthy, and stop both."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import httpx
import torch

from .._folders import check_output_dir
from ..conversion import export_checkpoint
from ..conversion.checkpoint import HYBRID, read_config, resolve_folder
from ..conversion.fingerprint import processor_fingerprint, weights_fingerprint
from ..conversion.vllm_export import vllm_flags
from .settings import KEY_VARIABLE, SETTINGS_VARIABLE, ServingSettings, api_key


LOCAL = "127.0.0.1"
STOP_SECONDS = 20.0


def exported(model: Path, folder: Path, format: Literal["vllm", "router"]) -> Path:
    """
    The export of a model in a folder, written first if the folder is missing or empty.

    Raises:
        ValueError: the folder holds something else, or an export of an earlier state of the model.
    """
    record = folder / "export.json"
    if not folder.exists() or not any(folder.iterdir()):
        print(f"Writing {folder} (export --format {format}) ...", flush=True)
        export_checkpoint(model, check_output_dir(folder, "export_dir"), format=format)
    found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    wanted = {"format": format, "weights": weights_fingerprint(model), "processor": processor_fingerprint(model)}
    if different := [name for name, value in wanted.items() if found.get(name) != value]:
        raise ValueError(
            f"`export_dir` has {str(folder)!r}, which is not a current {format!r} export of this model (different: "
            f"{', '.join(different)}). Remove it to have it written again, or choose another `export_dir`."
        )
    return folder


def hybrid_folder(model_name_or_path: str) -> tuple[Path, float]:
    """The folder of a hybrid, and its threshold. Any other kind of model is an error."""
    folder = resolve_folder(model_name_or_path, "model_name_or_path")
    config = read_config(folder, "model_name_or_path", HYBRID)
    if config.is_router_only:
        raise ValueError(
            f"`model_name_or_path` is {model_name_or_path!r}, an exported router, which has no branches to answer "
            "with. Pass the hybrid that it was exported from; `serve` exports the router itself."
        )
    return Path(folder).resolve(), config.thinking_threshold


def serve_transformers(
    model: Path, settings: ServingSettings, host: str, port: int, engine_args: list[str], start_seconds: float
) -> None:
    """
    `transformers serve` on a local port, with the router as a proxy in front of it. Returns on Ctrl-C.

    Raises:
        OSError: the engine did not start, or stopped.
    """
    from .middleware import RouterMiddleware
    from .proxy import Proxy

    engine_port = free_port()
    command = [sys.executable, "-m", "hf_metis_home.serving.transformers_engine", "serve", f"./{model.name}"]
    command += ["--host", LOCAL, "--port", str(engine_port), *engine_args]
    print(f"Starting `transformers serve` on port {engine_port}, behind the router. Its output:", flush=True)
    # In the parent folder, so that answers name the model without its full path.
    with _running(command, cwd=model.parent) as engine:
        middleware = RouterMiddleware(Proxy(f"http://{LOCAL}:{engine_port}"), settings)
        middleware.router.start()  # loads while the engine does
        if wait_until_healthy(f"http://{LOCAL}:{engine_port}", start_seconds, engine.poll):
            asyncio.run(_run_proxy(middleware, host, port, engine))


def serve_vllm(
    folder: Path, settings: ServingSettings, host: str, port: int, engine_args: list[str], start_seconds: float
) -> None:
    """
    vLLM with the router as its middleware. Returns on Ctrl-C.

    Raises:
        OSError: the engine did not start, or stopped.
    """
    record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    flags = vllm_flags(record["branch_kind"], record["max_lora_rank"], settings.model_name, f"{folder}/")
    command = [find_vllm(), "serve", *flags, "--host", host, "--port", str(port), *engine_args]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "serving.json"
        settings.write(path)
        environment = {**os.environ, SETTINGS_VARIABLE: str(path)}
        print("Starting vLLM. Its output:", flush=True)
        if key := api_key():
            environment["VLLM_API_KEY"] = key
        with _running(command, env=environment) as engine:
            if wait_until_healthy(_address(host, port), start_seconds, engine.poll):
                print_ready(host, port, settings.model_name)
                engine.wait()


@contextmanager
def _running(command: list[str], **options) -> Iterator[subprocess.Popen]:
    """An engine that is stopped at the end or by Ctrl-C. If it stops by itself, that is an error."""
    engine = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield engine
    except KeyboardInterrupt:
        pass
    finally:
        ended = engine.poll()
        stop(engine)
    if ended is not None:
        raise ChildProcessError(f"The engine stopped by itself, with exit code {ended}. See its output above.")


def find_vllm() -> str:
    """The `vllm` command of this environment, or on the path."""
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
    found = shutil.which("vllm", path=os.pathsep.join(places))
    if found is None:
        raise ImportError(
            "`engine` is 'vllm', but there is no command `vllm`. Install vLLM (in an environment of its own, since it "
            "needs an older transformers than other parts of this package), or use `--engine transformers`."
        )
    return found


def _address(host: str, port: int) -> str:
    """The URL at which this machine reaches a server that listens at `host`."""
    host = LOCAL if host in ("0.0.0.0", "::") else host
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def print_ready(host: str, port: int, model_name: str) -> None:
    url = _address(host, port)
    key = f' -H "Authorization: Bearer ${KEY_VARIABLE}"' if os.environ.get(KEY_VARIABLE) else ""
    body = {"model": "auto", "messages": [{"role": "user", "content": "What is 17 times 23?"}]}
    print(
        f"\nServing {model_name} at {url}/v1 (models: {model_name}, auto, auto:THRESHOLD, thinking, non_thinking). Ask:"
        f"\n\n  curl -i {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{json.dumps(body)}'"
        "\n\nThe header x-metis-branch says which branch answered. Ctrl-C stops.",
        flush=True,
    )


async def _run_proxy(middleware, host: str, port: int, engine: subprocess.Popen) -> None:
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(middleware, host=host, port=port, log_level="warning", lifespan="on"))
    serving = asyncio.create_task(server.serve())
    while not (server.started or serving.done()):
        await asyncio.sleep(0.1)
    if server.started:
        print_ready(host, port, middleware.settings.model_name)
    while engine.poll() is None and not serving.done():
        await asyncio.sleep(0.3)
    server.should_exit = True
    await serving
    if not server.started:
        raise OSError("The router in front of the engine did not start. See its output above.")


def check_port(host: str, port: int) -> None:
    """Raise an error if no server can listen at an address."""
    if not 0 < port < 65536:
        raise ValueError(f"`port` is {port}, but must be between 1 and 65535.")
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise OSError(
            f"`host` and `port` are {host!r} and {port}, where no server can listen: {error.strerror.split(' (')[0]}. "
            "Choose a free `port` above 1023, and an address of this machine as `host` (0.0.0.0 for all of them)."
        ) from None


def check_device(router_device: str) -> None:
    """Raise an error if there is no such device, without touching it."""
    try:
        device = torch.device(router_device)
        known = device.type != "cuda" or (device.index or 0) < torch.cuda.device_count()
    except RuntimeError:
        known = False
    if not known:
        raise ValueError(
            f"`router_device` is {router_device!r}, but must be a torch device of this machine, such as cpu or cuda:0."
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return probe.getsockname()[1]


def wait_until_healthy(url: str, seconds: float, exit_code: Callable[[], int | None]) -> bool:
    """
    Wait until a server of this machine answers `/health`.

    Args:
        url (`str`): Address of the server, without a path.
        seconds (`float`): How long to wait.
        exit_code (`Callable`): Exit code of its process, None while it runs.

    Returns:
        `bool`: False if the process has ended.

    Raises:
        TimeoutError: it runs, but is not healthy after `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if exit_code() is not None:
            return False
        with suppress(httpx.HTTPError):
            # Not through a proxy of the environment, which could not reach this machine.
            if httpx.get(f"{url}/health", trust_env=False, timeout=5).status_code == 200:
                return True
        time.sleep(0.3)
    raise TimeoutError(f"{url} was not healthy after {seconds:g} s. Increase `start_seconds`.")


def stop(engine: subprocess.Popen) -> None:
    """Stop an engine and its child processes, which form a process group of their own."""
    if engine.poll() is None:
        os.killpg(engine.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            engine.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()
