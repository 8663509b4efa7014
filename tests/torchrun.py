"""Two processes on this machine, for tests of what is spread over several."""

import os
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).parents[1]


def on_two_ranks(module: str, *arguments: str):
    """Run a module of the tests under torchrun. Its output is the message where it fails."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"),
        *("-m", module, *arguments),
    ]
    env = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", ""))),
    }
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=300)
    assert done.returncode == 0, done.stderr
