"""Start an engine with the router in front of it, wait until it answers, and stop both."""

import asyncio
import errno
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

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
    The export of a model in a folder: what is there, if it is of this model as it is now, else made now.

    Raises:
        ValueError: the folder holds something else.
    """
    record = folder / "export.json"
    if not folder.exists() or not any(folder.iterdir()):
        print(f"Writing {folder} (export --format {format}) ...", flush=True)
        export_checkpoint(model, check_output_dir(folder, "export_dir"), format=format)
    found = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    wanted = {"format": format, "weights": weights_fingerprint(model), "processor": processor_fingerprint(model)}
    if different := [name for name, value in wanted.items() if found.get(name) != value]:
        raise ValueError(
            f"`export_dir` has {str(folder)!r}, which is no {format!r} export of this model as it is now (other "
            f"{', '.join(different)}). Remove it to have it written anew, or choose another `export_dir`."
        )
    return folder


def hybrid_folder(model_name_or_path: str) -> tuple[Path, float]:
    """The folder of a two-branch model, and its threshold. An error where it is another kind of model."""
    folder = resolve_folder(model_name_or_path, "model_name_or_path")
    config = read_config(folder, "model_name_or_path", HYBRID)
    if config.text_config.router_layer == config.text_config.num_hidden_layers:
        raise ValueError(
            f"`model_name_or_path` is {model_name_or_path!r}, a router alone, which has no branches to answer with. "
            "Pass the two-branch model that it was exported from; `serve` exports the router itself."
        )
    return Path(folder).resolve(), config.thinking_threshold


def serve_transformers(
    model: Path, settings: ServingSettings, host: str, port: int, engine_args: list[str], start_seconds: float
) -> None:
    """
    `transformers serve` on a port of this machine alone, and the router as a proxy in front of it. Returns on Ctrl-C.

    Raises:
        OSError: the engine did not start, or ended.
    """
    from .middleware import RouterMiddleware
    from .proxy import Proxy

    engine_port = _free_port()
    command = [sys.executable, "-m", "hf_metis_home.serving.transformers_engine", "serve", f"./{model.name}"]
    command += ["--host", LOCAL, "--port", str(engine_port), *engine_args]
    print(f"Starting `transformers serve` on port {engine_port}, for the router alone. What it prints:", flush=True)
    # From beside the folder, so that answers name the model without saying where it lies.
    with _running(command, cwd=model.parent) as engine:
        middleware = RouterMiddleware(Proxy(f"http://{LOCAL}:{engine_port}"), settings)
        middleware.router.start()  # loads while the engine does
        if _is_ready(engine, engine_port, start_seconds):
            asyncio.run(_run_proxy(middleware, host, port, engine))


def serve_vllm(
    folder: Path, settings: ServingSettings, host: str, port: int, engine_args: list[str], start_seconds: float
) -> None:
    """
    vLLM with the router as its middleware. Returns on Ctrl-C.

    Raises:
        OSError: the engine did not start, or ended.
    """
    record = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    flags = vllm_flags(record["branch_kind"], record["max_lora_rank"], settings.model_name, f"{folder}/")
    command = [find_vllm(), "serve", *flags, "--host", host, "--port", str(port), *engine_args]
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "serving.json"
        settings.write(path)
        environment = {**os.environ, SETTINGS_VARIABLE: str(path)}
        print("Starting vLLM. What it prints:", flush=True)
        if key := api_key():
            environment["VLLM_API_KEY"] = key
        with _running(command, env=environment) as engine:
            if _is_ready(engine, port, start_seconds, host):
                print_ready(host, port, settings.model_name)
                engine.wait()


@contextmanager
def _running(command: list[str], **options):
    """An engine that is stopped at the end, or by Ctrl-C. An error where it ended by itself."""
    engine = subprocess.Popen(command, start_new_session=True, **options)
    try:
        yield engine
    except KeyboardInterrupt:
        pass
    finally:
        ended = engine.poll()
        stop(engine)
    if ended is not None:
        raise ChildProcessError(f"The engine ended by itself, with exit code {ended}. What it printed stands above.")


def find_vllm() -> str:
    """The `vllm` command beside this Python, or on the path. An error where there is none."""
    beside = Path(sys.executable).with_name("vllm")
    found = str(beside) if beside.is_file() else shutil.which("vllm")
    if found is None:
        raise ImportError(
            "`engine` is 'vllm', but there is no command `vllm`. Install vLLM into this environment (it wants an older "
            "transformers than other parts of this package, so give it an environment of its own), or use "
            "`--engine transformers`."
        )
    return found


def print_ready(host: str, port: int, model_name: str) -> None:
    shown = LOCAL if host in ("0.0.0.0", "::") else host
    url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
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

    class Server(uvicorn.Server):
        async def startup(self, *args, **kwargs):
            await super().startup(*args, **kwargs)
            if self.started:
                print_ready(host, port, middleware.settings.model_name)

    server = Server(uvicorn.Config(middleware, host=host, port=port, log_level="warning", lifespan="on"))

    def end_with_engine():
        engine.wait()
        server.should_exit = True

    threading.Thread(target=end_with_engine, daemon=True).start()
    await server.serve()
    if not server.started:
        raise OSError("The router in front of the engine could not be started. What it printed stands above.")


def check_port(host: str, port: int) -> None:
    """An error where nothing can listen at an address."""
    if not 0 < port < 65536:
        raise ValueError(f"`port` is {port}, but must be between 1 and 65535.")
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        reasons = {
            errno.EADDRINUSE: "another program listens there already. Stop it, or choose another `port`",
            errno.EADDRNOTAVAIL: "that is no address of this machine. Take 127.0.0.1, or 0.0.0.0 for all that it has",
            errno.EACCES: "ports below 1024 are not for every user. Choose another `port`",
        }
        reason = reasons.get(error.errno, error.strerror)
        raise OSError(f"`host` and `port` are {host!r} and {port}, where no server can listen: {reason}.") from None


def check_device(router_device: str) -> None:
    """An error for a device that is not there, without touching it."""
    try:
        device = torch.device(router_device)
    except RuntimeError:
        raise ValueError(f"`router_device` is {router_device!r}, but must be a device of torch: cpu, cuda:0.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"`router_device` is {router_device!r}, but torch finds {torch.cuda.device_count()} CUDA devices. Use one "
            "that is there, or cpu."
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOCAL, 0))
        return probe.getsockname()[1]


def _is_ready(engine: subprocess.Popen, port: int, seconds: float, host: str = LOCAL) -> bool:
    """Waits until the engine says that it is healthy, or has ended."""
    shown = LOCAL if host in ("0.0.0.0", "::") else host
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy can reach this machine's address
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if engine.poll() is not None:
            return False
        try:
            with direct.open(f"http://{shown}:{port}/health", timeout=5) as reply:
                if reply.status == 200:
                    return True
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(0.3)
    raise TimeoutError(f"The engine did not answer within {seconds:g} seconds. Give it more with `start_seconds`.")


def stop(engine: subprocess.Popen) -> None:
    """End an engine and whatever it started, which are a process group of their own."""
    if engine.poll() is None:
        os.killpg(engine.pid, signal.SIGTERM)
        try:
            engine.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(engine.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    engine.wait()
