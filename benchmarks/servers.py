"""The servers that `benchmarks.serving` compares, each in its own process, with child processes."""

import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hf_metis_home.serving.launch import LOCAL, STOP_SECONDS, free_port, stop, wait_until_healthy

from .common import status


ROOT = Path(__file__).parents[1]


@dataclass
class Server:
    url: str
    pids: list[int]  # of the processes that were started, without their children

    def megabytes(self) -> float:
        """Peak resident memory of all its processes, in MB (1e6 bytes); shared pages count once per process."""
        return sum(status("VmHWM", pid) for pid in family(self.pids))


def family(pids: list[int]) -> list[int]:
    """Processes and all their descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has ended
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = list(pids)
    for pid in found:
        found += children.get(pid, [])
    return found


@dataclass
class Starter:
    """
    Starts servers.

    Args:
        place (`Path`): Where logs go.
        threads (`int`): Threads of each computing process.
        seconds (`float`): How long a server may take to start.
        vllm (`Path`, *optional*): The `vllm` command; None: `transformers serve` is the engine.
        engine_args (`list[str]`): Flags for every engine.
    """

    place: Path
    threads: int
    seconds: float
    vllm: Path | None
    engine_args: list[str]

    @contextmanager
    def hybrid(self, model: Path) -> Iterator[Server]:
        """`metis-home serve`."""
        engine = "vllm" if self.vllm else "transformers"
        command = [sys.executable, "-m", "hf_metis_home.cli", "serve", "--model_name_or_path", str(model)]
        command += ["--engine", engine, "--export_dir", str(self.place / "exports")]
        command += ["--start_seconds", str(self.seconds), f"--engine_args={shlex.join(self.engine_args)}"]
        with self._running("hybrid", command) as server:
            yield server

    @contextmanager
    def dense(self, model: Path) -> Iterator[Server]:
        """Only the engine, with a dense model."""
        command = [sys.executable, "-m", "transformers.cli.transformers", "serve", self.name_of(model)]
        if self.vllm:
            command = [str(self.vllm), "serve", self.name_of(model)]
        with self._running(model.name, [*command, *self.engine_args], cwd=model.parent) as server:
            yield server

    def name_of(self, model: Path) -> str:
        """The engine's name for a dense model that it serves."""
        return f"./{model.name}"

    @contextmanager
    def router(self, router: Path, engines: dict[str, Server], models: dict[str, Path]) -> Iterator[Server]:
        """The router in front of two engines, in its own process."""
        port = free_port()
        urls = {branch: engine.url for branch, engine in engines.items()}
        names = {branch: self.name_of(model) for branch, model in models.items()}
        arguments = (urls, str(router), names, port, self.threads)
        process = multiprocessing.get_context("spawn").Process(target=_route, args=arguments, daemon=True)
        process.start()
        try:
            url = f"http://{LOCAL}:{port}"
            if not wait_until_healthy(url, self.seconds, lambda: process.exitcode):
                raise ChildProcessError(f"The router in front of two engines exited with code {process.exitcode}.")
            yield Server(url, [process.pid])
        finally:
            process.terminate()
            process.join(STOP_SECONDS)

    @contextmanager
    def _running(self, name: str, command: list[str], **options) -> Iterator[Server]:
        port, log = free_port(), self.place / f"{name}.log"
        command = [*command, "--host", LOCAL, "--port", str(port)]
        with log.open("w") as file:
            process = subprocess.Popen(
                command,
                env=self._environment(),
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **options,
            )
        try:
            url = f"http://{LOCAL}:{port}"
            if not wait_until_healthy(url, self.seconds, process.poll):
                output = "".join(f"\n  {line}" for line in log.read_text().splitlines()[-20:])
                raise ChildProcessError(
                    f"`{shlex.join(command)}` exited with code {process.returncode}. Its last output:{output}"
                )
            yield Server(url, [process.pid])
        finally:
            stop(process)

    def _environment(self) -> dict[str, str]:
        found = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
        if self.vllm:
            # On a CPU, vLLM would take most of the memory and pin its threads to cores that the other servers use.
            found = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", **found}
            found |= {"VLLM_NO_USAGE_STATS": "1", "PATH": f"{self.vllm.parent}{os.pathsep}{os.environ['PATH']}"}
        return found


def _route(urls: dict[str, str], router: str, names: dict[str, str], port: int, threads: int) -> None:
    import torch
    import uvicorn

    from hf_metis_home.serving import Proxy, RouterMiddleware, ServingSettings

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # uvicorn raises the signal again once it has stopped
    torch.set_num_threads(threads)
    app = RouterMiddleware(Proxy(urls), ServingSettings(router=router, branch_models=names))
    uvicorn.run(app, host=LOCAL, port=port, log_level="warning", lifespan="on")
