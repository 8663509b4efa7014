"""
The real vLLM rolls out one branch: TRL's colocate mode on a CPU, two steps of training, the tokens of transformers.

Needs the path of a `vllm` command in `METIS_HOME_VLLM` (see `make test-serving`), and TRL in its environment.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from hf_metis_home.conversion import upcycle_checkpoint

from ..conversion.common import perturb
from ..fixtures_text import tiny_word_level


VLLM = os.environ.get("METIS_HOME_VLLM")
ROOT = Path(__file__).parents[2]
KINDS = {"ffn": {}, "lora": {"branch_kind": "lora", "branch_rank": 4, "branch_alpha": 4.0}}
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM, reason="needs vLLM and TRL in one environment: make test-serving VLLM=..."),
]


@pytest.fixture(scope="module", params=KINDS)
def result(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    # 32 dimensions per head are the least that vLLM's attention on a CPU takes.
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
    dense, processor = tiny_word_level(hidden=64, rope_parameters=rope)
    torch.manual_seed(0)
    for parameter in dense.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    for name in ("dense", "start"):
        dense.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    upcycle_checkpoint(folder / "dense", folder / "hybrid", **KINDS[request.param])
    # The engine starts from another model, so that nothing but what it is sent can make it right.
    perturb(folder / "hybrid", (".thinking.", ".non_thinking."), scale=0.3)
    environment = {
        **os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    python = Path(VLLM).with_name("python")
    look = "import importlib.metadata as m; m.version('trl')"
    if subprocess.run([python, "-c", look], capture_output=True).returncode:
        pytest.skip("needs TRL beside vLLM: pip install 'trl>=1.16,<1.17' datasets math-verify, in its environment")
    done = subprocess.run(
        [python, "-m", "tests.trainers.vllm_rollouts", str(folder)], cwd=ROOT, env=environment, text=True,
        capture_output=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return json.loads((folder / "result.json").read_text())


def test_the_engine_answers_as_the_branch(result):
    assert result["engine_before"] != result["model_before"]  # it has not been sent anything yet
    assert result["engine_after"] == result["model_after"]
    assert result["model_after"] != result["model_before"]


def test_rollouts_are_the_branch_s(result):
    """What vLLM says of a sampled token's probability is what the branch says, after a step has changed it."""
    suppressed, plain = result["differences"]
    assert plain < 1e-3 < suppressed


def test_the_branch_alone_trains(result):
    assert result["moved"] and all(".thinking." in name for name in result["moved"])


def test_vision_tokens_are_never_sampled(result):
    first, second = result["sampled"][:8], result["sampled"][8:]
    sampled = {token for ids in first for token in ids}
    assert len(first) == len(second) == 8 and len(sampled) > 20 and not sampled & set(result["vision"])
