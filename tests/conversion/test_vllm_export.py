"""What vLLM is given computes, with the adapter of a branch, what that branch computes."""

import ast
import json
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLTextConfig

from hf_metis_home.conversion import export_checkpoint, upcycle_checkpoint
from hf_metis_home.conversion.vllm_export import vllm_flags
from hf_metis_home.modeling import gated_metis_home
from hf_metis_home.modeling.configuration_metis_home import tensor_parallel_plan

from ..modeling.tiny import KINDS
from .common import config_of, hybrid_of, logits, perturb, save_dense, stored


BRANCHES = ("thinking", "non_thinking")


@pytest.fixture(scope="module", params=KINDS)
def exported(request, tmp_path_factory):
    """A trained hybrid, and what vLLM gets of it."""
    folder = tmp_path_factory.mktemp(request.param)
    hybrid = upcycle_checkpoint(save_dense(folder / "dense"), folder / "hybrid", **KINDS[request.param])
    perturb(hybrid, ("router.score", ".norm.", ".self_attn.q_proj.weight"))
    perturb(hybrid, (".thinking.", ".non_thinking."), scale=0.6)
    export_checkpoint(hybrid, folder / "vllm", format="vllm")
    return folder


def base_of(exported):
    trust = {"trust_remote_code": True} if "auto_map" in config_of(exported / "vllm/model") else {}
    return AutoModelForImageTextToText.from_pretrained(exported / "vllm/model", **trust).eval()


def image_inputs(processor):
    from PIL import Image

    content = [{"type": "image", "image": Image.new("RGB", (56, 56), "teal")}, {"type": "text", "text": "read"}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip


@pytest.mark.parametrize("branch", BRANCHES)
@torch.no_grad()
def test_the_adapter_is_the_branch(exported, branch):
    hybrid = hybrid_of(exported / "hybrid")
    served = PeftModel.from_pretrained(base_of(exported), exported / "vllm/adapters" / branch).eval()
    found, expected = logits(served), logits(hybrid, thinking=branch == "thinking")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, logits(hybrid, thinking=branch != "thinking"), atol=1e-2)
    inputs = image_inputs(AutoProcessor.from_pretrained(exported / "vllm/model"))
    torch.testing.assert_close(
        served(**inputs).logits, hybrid(**inputs, thinking=branch == "thinking").logits, rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_a_request_has_its_own(exported):
    """Both adapters over one model, as an engine holds them, and the answers of the branches token by token."""
    served = PeftModel.from_pretrained(base_of(exported), exported / "vllm/adapters/thinking", adapter_name="thinking")
    served.load_adapter(exported / "vllm/adapters/non_thinking", adapter_name="non_thinking")
    inputs = {"input_ids": torch.arange(4, 13)[None], "do_sample": False, "max_new_tokens": 8}
    hybrid, answers = hybrid_of(exported / "hybrid"), []
    for branch in BRANCHES:
        served.set_adapter(branch)
        answers.append(served.generate(**inputs).tolist())
        assert answers[-1] == hybrid.generate(**inputs, thinking=branch == "thinking").tolist()
    assert answers[0] != answers[1]


def test_the_router_and_the_readme(exported):
    folder = exported / "vllm"
    ids = {"input_ids": torch.arange(4, 13)[None]}
    found = AutoModel.from_pretrained(folder / "router").route(**ids).logits
    torch.testing.assert_close(found, hybrid_of(exported / "hybrid").route(**ids).logits, rtol=0, atol=1e-5)
    record, readme = json.loads((folder / "export.json").read_text()), (folder / "README.md").read_text()
    assert f"\n{record['command']}\n" in readme and readme.startswith("---\n")
    words = shlex.split(record["command"])
    assert words[:3] == ["vllm", "serve", "model"] and (folder / words[2] / "config.json").is_file()
    for module in words[words.index("--lora-modules") + 1 :][:2]:
        name, _, place = module.partition("=")
        assert name in BRANCHES and (folder / place / "adapter_config.json").is_file()
    rank = json.loads((folder / "adapters/thinking/adapter_config.json").read_text())["r"]
    assert rank <= int(words[words.index("--max-lora-rank") + 1]) in (8, 16)
    assert words[words.index("--middleware") + 1] == "hf_metis_home.serving.RouterMiddleware"
    assert "--trust-remote-code" not in words and ("--trust-remote-code" in readme) == (
        "both branches are computed" in readme
    )
    assert ("branch_gate" in words) == (record["branch_kind"] == "ffn") == ("--trust-remote-code" in readme)
    for branch, place in (("thinking", "thinking"), ("non_thinking", "non-thinking")):
        line = "metis-home export --model_name_or_path HYBRID --format dense --branch {} --output_dir {}\n"
        assert line.format(branch, place) in readme
    from hf_metis_home.serving import ServingSettings

    assert ServingSettings.read(folder / "serving.json").router == str(folder / "router")


def test_flags_with_a_folder():
    flags = vllm_flags("lora", 16, "name", "/there/")
    assert flags[0] == "/there/model" and "thinking=/there/adapters/thinking" in flags
    assert flags[flags.index("--max-loras") + 1] == "2" and flags[flags.index("--served-model-name") + 1] == "name"


def test_the_plugin_is_where_vllm_looks_for_it():
    """The names that vLLM follows from the entry point to the class, which only vLLM can import."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    module, _, function = project["entry-points"]["vllm.general_plugins"]["metis_home"].partition(":")
    assert function in definitions(module)
    names = definitions("hf_metis_home.serving.vllm_gated")
    assert gated_metis_home.MetisHomeGatedForConditionalGeneration.__name__ in names


def definitions(module: str) -> set[str]:
    tree = ast.parse(Path(find_spec(module).origin).read_text())
    return {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gated")
    hybrid = upcycle_checkpoint(save_dense(folder / "dense", dtype=torch.bfloat16), folder / "hybrid")
    perturb(hybrid, (".thinking.",))
    export_checkpoint(hybrid, folder / "vllm", format="vllm")
    return folder


def test_gated_needs_no_package(gated, tmp_path):
    """What an engine does: AutoModel, from the folder's own code."""
    code = (
        "import sys; from transformers import AutoModel, AutoConfig\n"
        f"folder = {str(gated / 'vllm/model')!r}\n"
        "model = AutoModel.from_pretrained(folder, trust_remote_code=True)\n"
        "config = AutoConfig.from_pretrained(folder, trust_remote_code=True)\n"
        "assert type(AutoModel.from_config(config, trust_remote_code=True)).__name__ == 'MetisHomeGatedModel'\n"
        "assert 'hf_metis_home' not in sys.modules and str(model.dtype) == 'torch.bfloat16'\n"
        "gates = [m for n, m in model.named_modules() if n.endswith('branch_gate')]\n"
        "assert len(gates) == 1 and not any(gate.weight.any() for gate in gates), len(gates)\n"
        "assert model._supports_attention_backend"
    )
    import os

    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment.pop("PYTHONPATH", None)
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path, env=environment)


def test_gated_is_exact_in_bf16_and_splits_over_devices(gated):
    config = config_of(gated / "vllm/model")
    assert config["model_type"] == "metis_home_gated" and config["text_config"]["model_type"] == "qwen2_5_vl_text"
    assert set(config["auto_map"]) == {"AutoConfig", "AutoModel", "AutoModelForImageTextToText"}
    assert not any("router." in name for name in stored(gated / "vllm/model"))
    model = AutoModelForImageTextToText.from_pretrained(gated / "vllm/model", trust_remote_code=True).eval()
    assert model.config.text_config.base_model_tp_plan == tensor_parallel_plan(
        Qwen2_5_VLTextConfig.base_model_tp_plan, True, BRANCHES, None
    )
    served = PeftModel.from_pretrained(model, gated / "vllm/adapters/thinking")
    assert torch.equal(logits(served), logits(hybrid_of(gated / "hybrid", dtype="auto"), thinking=True))
    without = AutoModelForImageTextToText.from_pretrained(gated / "vllm/model", trust_remote_code=True).eval()
    dense = AutoModelForImageTextToText.from_pretrained(gated / "dense").eval()
    assert torch.equal(logits(without), logits(dense))  # the non-thinking branch
    pointer = load_file(gated / "vllm/adapters/thinking/adapter_model.safetensors")
    assert all(tensor.sum() == 1 for tensor in pointer.values()) and len(pointer) == 2


def test_ranks_that_vllm_does_not_take(tmp_path):
    hybrid = upcycle_checkpoint(
        save_dense(tmp_path / "dense"), tmp_path / "hybrid", branch_kind="lora", branch_rank=600
    )
    with pytest.raises(ValueError, match="`branch_rank` is 600, but vLLM supports adapters only up to rank 512"):
        export_checkpoint(hybrid, tmp_path / "vllm", format="vllm")
    assert not (tmp_path / "vllm").exists()
