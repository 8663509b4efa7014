"""A Space as the Hub runs it: `python app.py`, with its requirements and nothing else, and no network."""

import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def link_requirements(names: list[str], folder: Path) -> set[str]:
    """Makes a folder for PYTHONPATH with the named packages and what they require, and gives their names."""
    folder.mkdir()
    pending, found = [Requirement(name).name for name in names], set()
    while pending:
        name = pending.pop()
        if name.lower() in found:
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name.lower())
        for top in {Path(file).parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            if not (folder / top).exists():
                (folder / top).symlink_to(package.locate_file(top))
        for line in package.requires or []:
            required = Requirement(line)
            if required.marker is None or required.marker.evaluate({"extra": ""}):
                pending.append(required.name)
    return found


@contextmanager
def serve(space: Path, site: Path):
    """The Space's address. Its output is printed where it does not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"PYTHONPATH": str(site), "GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    environment |= {"HF_HOME": str(site.parent / "cache"), "GRADIO_TEMP_DIR": str(site.parent / "uploads")}
    process = subprocess.Popen(
        [sys.executable, "-S", "-u", str(space / "app.py")],
        cwd=site.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if re.search(r"Running on local URL", line):
                break
        assert process.poll() is None, "".join(lines)
        threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True).start()
        address = f"http://127.0.0.1:{port}"
        assert urllib.request.urlopen(address, timeout=30).status == 200
        yield address
        assert process.poll() is None, "".join(lines)  # it has lived through everything
    finally:
        process.terminate()
        process.wait(20)
