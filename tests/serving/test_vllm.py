"""
The real vLLM behind `metis-home serve`: the tokens of both branches are those of transformers.

Needs the path of a `vllm` command in `METIS_HOME_VLLM` (see `make test-serving`): vLLM wants other versions than this
package, so it has an environment of its own.
"""

import asyncio
import json
import os
import subprocess
import tomllib
from pathlib import Path

import httpx
import pytest
import torch
from transformers import AutoProcessor

from hf_metis_home.conversion import upcycle_checkpoint
from hf_metis_home.modeling import MetisHomeForConditionalGeneration

from ..conversion.common import perturb
from ..fixtures_text import tiny_word_level
from .common import CHAT, ROOT, chat, data_url, free_port, image_part, picture, process, wait_until


VLLM = os.environ.get("METIS_HOME_VLLM")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM, reason="needs vLLM, which wants another transformers: make test-serving VLLM=..."),
]
# Per way of serving: the branches, what is added to the engine's flags, and the class that vLLM must choose.
WAYS = {
    "ffn": ({}, "", "MetisHomeGatedForConditionalGeneration"),
    "ffn-transformers": ({}, " --model-impl transformers --trust-remote-code", "TransformersMultiModalForCausalLM"),
    "lora": (
        {"branch_kind": "lora", "branch_rank": 4, "branch_alpha": 4.0}, "", "Qwen2_5_VLForConditionalGeneration"
    ),
}  # fmt: skip
QUESTION = "which digit is at the top left?"
RED, BLUE = data_url(picture()), data_url(picture("blue", size=(90, 40)))
PROMPTS = {
    "text": [QUESTION],
    "image": [image_part(RED), QUESTION],
    "images": [image_part(RED), "and", image_part(BLUE), QUESTION],
}
LENGTH = 12


def entry_points(folder: Path) -> Path:
    """A folder that, on the path, makes the entry points of pyproject.toml known, as an installation does."""
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["vllm.general_plugins"]
    lines = ["[vllm.general_plugins]", *(f"{name} = {value}" for name, value in found.items())]
    metadata = folder / "hf_metis_home-0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hf-metis-home\nVersion: 0\n")
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module", params=WAYS)
def served(request, tmp_path_factory):
    """The folder of a hybrid, and the address where vLLM serves it."""
    place = tmp_path_factory.mktemp(request.param)
    kind, more_flags, model_class = WAYS[request.param]
    # 32 dimensions per head are the least that vLLM's attention on a CPU takes.
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
    dense, processor = tiny_word_level(hidden=64, rope_parameters=rope)
    torch.manual_seed(0)
    for parameter in dense.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    dense.save_pretrained(place / "dense")
    processor.save_pretrained(place / "dense")
    upcycle_checkpoint(place / "dense", place / "hybrid", **kind)
    perturb(place / "hybrid", (".thinking.", ".non_thinking.", "router.score", "router.up_proj"), scale=0.3)

    environment = {
        "PATH": f"{Path(VLLM).parent}:{os.environ['PATH']}", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind", "PYTHONPATH": f"{ROOT / 'src'}:{entry_points(place / 'installed')}",
    }  # fmt: skip
    flags = "--dtype float32 --enforce-eager --max-model-len 256 --max-num-batched-tokens 64 --enable-prefix-caching"
    flags += " --reasoning-parser-plugin hf_metis_home.serving.vllm_reasoning --reasoning-parser metis_home"
    flags += more_flags
    port, log = free_port(), (place / "log").open("w+")
    command = ["-m", "hf_metis_home.cli", "serve", "--model_name_or_path", "hybrid", "--engine", "vllm"]
    command += ["--port", str(port), "--served_model_name", "my-hybrid", f"--engine_args={flags}"]
    with process(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT) as running:
        wait_until(lambda: "Ctrl-C stops." in (place / "log").read_text() or running.poll() is not None, 1200)
        assert running.poll() is None, (place / "log").read_text()[-5000:]
        assert f"Resolved architecture: {model_class}" in (place / "log").read_text()
        yield place / "hybrid", f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def expected(served):
    """By prompt: the text of each branch as transformers generates it, and the router's probability."""
    model = MetisHomeForConditionalGeneration.from_pretrained(served[0]).eval()
    processor = AutoProcessor.from_pretrained(served[0])
    found = {}
    for name, parts in PROMPTS.items():
        content = [
            {"type": "text", "text": part}
            if isinstance(part, str)
            else {"type": "image", "url": part["image_url"]["url"]}
            for part in parts
        ]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        found[name] = {"probability": model.route(**inputs).thinking_probability.item()}
        for branch in ("thinking", "non_thinking"):
            tokens = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False, thinking=branch == "thinking")
            text = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            found[name][branch] = text
    assert found["text"]["thinking"] != found["text"]["non_thinking"]
    return found


def body(name: str, model: str, **fields) -> dict:
    return chat(*PROMPTS[name], model=model, max_tokens=LENGTH, temperature=0.0, **fields)


def text_of(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("name", PROMPTS)
@pytest.mark.parametrize("branch", ["thinking", "non_thinking"])
def test_tokens_of_a_branch(served, expected, name, branch):
    reply = httpx.post(served[1] + CHAT, json=body(name, branch), timeout=120)
    assert text_of(reply) == expected[name][branch]
    assert reply.headers["x-metis-branch"] == branch and reply.headers["x-metis-source"] == "request"


@pytest.mark.parametrize("name", PROMPTS)
def test_the_router_and_the_dial(served, expected, name):
    probability = expected[name]["probability"]
    for threshold, branch in ((probability * 0.9, "thinking"), (probability * 1.1 + 1e-6, "non_thinking")):
        reply = httpx.post(served[1] + CHAT, json=body(name, f"auto:{threshold:.12f}"), timeout=120)
        assert text_of(reply) == expected[name][branch]
        assert reply.headers["x-metis-branch"] == branch and reply.headers["x-metis-source"] == "router"
        assert float(reply.headers["x-metis-thinking-probability"]) == pytest.approx(probability, rel=1e-3)


def test_many_at_once(served, expected):
    """Mixed batches, chunked prefill and a warm prefix cache: a request gets the tokens of its branch."""
    asked = [(name, branch) for name in PROMPTS for branch in ("thinking", "non_thinking")] * 6

    async def run():
        async with httpx.AsyncClient(timeout=300) as client:
            return await asyncio.gather(
                *(client.post(served[1] + CHAT, json=body(name, branch)) for name, branch in asked)
            )

    for (name, branch), reply in zip(asked, asyncio.run(run()), strict=True):
        assert text_of(reply) == expected[name][branch]


def test_streams(served, expected):
    with httpx.stream("POST", served[1] + CHAT, json=body("image", "thinking", stream=True), timeout=120) as stream:
        assert stream.headers["x-metis-branch"] == "thinking"
        lines = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    streamed = "".join(line["choices"][0]["delta"].get("content") or "" for line in lines if line["choices"])
    assert streamed == expected["image"]["thinking"]


@pytest.mark.parametrize("thinking", [True, False])
def test_thoughts_are_split_from_answers(served, thinking):
    """Where the opening stands in the prompt, a reply without tags is a thought in one mode, an answer in the other."""
    model = MetisHomeForConditionalGeneration.from_pretrained(served[0]).eval()
    processor = AutoProcessor.from_pretrained(served[0])
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}], add_generation_prompt=True, tokenize=True,
        return_dict=True, return_tensors="pt", enable_thinking=thinking,
    )  # fmt: skip
    tokens = model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
    text = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    asked = body("text", "auto", chat_template_kwargs={"enable_thinking": thinking})
    expected = (text, None) if thinking else (None, text)
    message = httpx.post(served[1] + CHAT, json=asked, timeout=120).json()["choices"][0]["message"]
    assert (message.get("reasoning"), message["content"]) == expected
    with httpx.stream("POST", served[1] + CHAT, json=asked | {"stream": True}, timeout=120) as stream:
        lines = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {")]
    deltas = [line["choices"][0]["delta"] for line in lines if line["choices"]]
    streamed = tuple("".join(delta.get(key) or "" for delta in deltas) or None for key in ("reasoning", "content"))
    assert streamed == expected


def test_what_stands_around_it(served):
    names = [model["id"] for model in httpx.get(served[1] + "/v1/models").json()["data"]]
    assert names == ["my-hybrid", "auto", "thinking", "non_thinking"]
    metrics = httpx.get(served[1] + "/metrics").text
    assert "vllm:num_requests_running" in metrics and 'metis_home_requests_total{branch="thinking"' in metrics
    for path in ("/v1/responses", "/tokenize", "/inference/v1/generate"):
        assert httpx.post(served[1] + path, json=body("text", "thinking")).status_code == 404
    assert httpx.post(served[1] + CHAT, json=body("text", "hybrid")).json()["error"]["code"] == "model_not_found"
