"""What a backbone must pass: a hybrid on it is, to the last bit, the dense models that its branches come from."""

import inspect
import json
import os
import subprocess
import sys

import pytest
import torch

from hf_metis_home import upcycle
from hf_metis_home.modeling import BACKBONES, hybrid_classes

from .backbones import FAST, batch, tiny_dense
from .tiny import HEADER, TURN_END


ALL = [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in BACKBONES if name != "qwen2_5_vl"]
MIXED = torch.tensor([True, False, True])
GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


@pytest.fixture(params=ALL)
def backbone(request):
    return request.param


def make_hybrid(backbone: str, thinking_model=None, **options):
    """An upcycled model whose router has an opinion."""
    dense = tiny_dense(backbone)
    hybrid = upcycle(dense, thinking_model=thinking_model, router_hidden_size=8, **options).eval()
    hybrid.config.assistant_header_ids, hybrid.config.end_of_turn_id = HEADER, TURN_END
    router = hybrid.model.get_decoder().router
    torch.manual_seed(3)
    torch.nn.init.normal_(router.up_proj.weight, std=0.3)
    torch.nn.init.normal_(router.score.weight, std=0.7)
    return dense, hybrid


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("router_layer", [0, 2])
def test_branches_are_their_sources(backbone, router_layer, side):
    thinking = tiny_dense(backbone, seed=1)
    dense = tiny_dense(backbone)
    for number, (mine, shared) in enumerate(
        zip(thinking.model.get_decoder().layers, dense.model.get_decoder().layers, strict=True)
    ):
        if number < router_layer:
            mine.load_state_dict(shared.state_dict())
    dense, hybrid = make_hybrid(backbone, thinking, router_layer=router_layer)
    inputs = batch(backbone, side)
    with torch.no_grad():
        expected = {True: thinking(**inputs).logits, False: dense(**inputs).logits}
        assert not torch.equal(expected[True], expected[False])
        for branch, logits in expected.items():
            assert torch.equal(hybrid(**inputs, thinking=branch).logits, logits)
        rows = torch.where(MIXED[:, None, None], expected[True], expected[False])
        assert torch.equal(hybrid(**inputs, thinking=MIXED).logits, rows)
        routed = hybrid(**inputs, thinking_threshold=0.3)
        chosen = hybrid.route(**inputs, thinking_threshold=0.3).thinking.bool()
        assert torch.equal(routed.logits, torch.where(chosen[:, None, None], expected[True], expected[False]))
        if side == "left":
            texts = {True: thinking.generate(**inputs, **GREEDY), False: dense.generate(**inputs, **GREEDY)}
            found = hybrid.generate(**inputs, **GREEDY, thinking=MIXED)
            assert torch.equal(found, torch.where(MIXED[:, None], texts[True], texts[False]))


def test_low_rank_branches_begin_as_the_dense_model(backbone):
    names = ["q_proj"] if backbone == "lfm2_vl" else ["q_proj", "down_proj"]
    dense, hybrid = make_hybrid(backbone, branch_kind="lora", branch_rank=2, branch_projections=names)
    inputs = batch(backbone)
    with torch.no_grad():
        for thinking in (True, False, MIXED, None):
            assert torch.equal(hybrid(**inputs, thinking=thinking).logits, dense(**inputs).logits)
        for module in hybrid.modules():
            if hasattr(module, "lora_B"):
                torch.nn.init.normal_(module.lora_B.weight, std=0.2)
        moved = {thinking: hybrid(**inputs, thinking=thinking).logits for thinking in (True, False)}
        assert not torch.equal(moved[True], moved[False])
        rows = torch.where(MIXED[:, None, None], moved[True], moved[False])
        torch.testing.assert_close(hybrid(**inputs, thinking=MIXED).logits, rows, rtol=0, atol=1e-5)


def test_one_decision_in_every_way(backbone):
    _, hybrid = make_hybrid(backbone, router_layer=1)
    inputs = batch(backbone)
    with torch.no_grad():
        route, scores = hybrid.route(**inputs), hybrid(**inputs).branch_logits
    assert torch.equal(route.logits, scores) and route.logits.dtype == torch.float32
    assert len(set(route.thinking_probability.tolist())) == 3
    decision = hybrid.decide(**inputs)
    assert decision.source == ["router"] * 3 and torch.equal(decision.thinking, route.thinking)
    assert torch.equal(decision.thinking_probability, route.thinking_probability)
    written = hybrid.generate(**inputs, **GREEDY, return_dict_in_generate=True)
    assert torch.equal(written.thinking, route.thinking)
    # Some backbones number the positions of a padded prompt from its first token in `generate` alone.
    torch.testing.assert_close(written.thinking_probability, route.thinking_probability, rtol=0, atol=1e-6)
    assert torch.equal(hybrid.generate(**inputs, **GREEDY, decision=decision), written.sequences)
    for row in range(3):
        alone = hybrid.route(**batch(backbone, rows=(row,)))
        torch.testing.assert_close(alone.logits[0], route.logits[row], rtol=0, atol=1e-5)


def test_training_reaches_both_branches_and_the_router(backbone):
    _, hybrid = make_hybrid(backbone, router_layer=1)
    inputs = batch(backbone, "right")
    losses, gradients = [], []
    for checkpointing in (False, True):
        hybrid.train().zero_grad()
        if checkpointing:
            hybrid.gradient_checkpointing_enable({"use_reentrant": False})
        prompt = inputs["attention_mask"].bool()
        labels = inputs["input_ids"].masked_fill(~prompt, -100)
        outputs = hybrid(**inputs, thinking=MIXED, prompt_mask=prompt, labels=labels, use_cache=False)
        loss = outputs.loss + torch.nn.functional.cross_entropy(outputs.branch_logits, MIXED.long())
        loss.backward()
        losses.append(loss.detach())
        parts = [hybrid.model.get_decoder().router, *hybrid.model.get_decoder().layers]
        gradients.append([parameter.grad.clone() for part in parts for parameter in part.parameters()])
    assert torch.equal(*losses) and all(map(torch.equal, *gradients))
    assert any(gradient.any() for gradient in gradients[0][:3])


def test_forwards_name_every_input(backbone):
    _, hybrid = make_hybrid(backbone)
    for model in (hybrid, hybrid.model):
        ours, dense = (inspect.signature(each.forward).parameters for each in (model, type(model).__bases__[1]))
        if "self" in dense:
            dense = {name: each for name, each in dense.items() if name != "self"}
        assert dense.keys() | {"thinking", "thinking_threshold", "prompt_mask"} <= ours.keys()


ISOLATED = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_metis_home":
            raise ImportError("the package is not importable here")
sys.meta_path.insert(0, Refuse())
import torch, transformers
folder, again = sys.argv[1:]
auto = getattr(transformers, next(n for n in json.load(open(folder + "/config.json"))["auto_map"] if "For" in n))
kept = torch.load(folder + "/expected.pt")
for place in (folder, again):
    model, info = auto.from_pretrained(place, trust_remote_code=True, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    with torch.no_grad():
        assert torch.equal(model(**kept["inputs"], thinking=kept["thinking"]).logits, kept["logits"])
        assert torch.equal(model.route(**kept["inputs"]).logits, kept["route"])
    model.save_pretrained(again)
base = transformers.AutoModel.from_pretrained(folder, trust_remote_code=True)
print(type(model).__name__, type(base).__name__)
"""


def test_remote_code_needs_nothing_else(tmp_path, backbone):
    _, hybrid = make_hybrid(backbone, tiny_dense(backbone, seed=1))
    inputs, folder = batch(backbone), tmp_path / "saved"
    hybrid.save_pretrained(folder)
    with torch.no_grad():
        expected = {"logits": hybrid(**inputs, thinking=MIXED).logits, "route": hybrid.route(**inputs).logits}
    torch.save({"inputs": inputs, "thinking": MIXED, **expected}, folder / "expected.pt")
    _, model, head = hybrid_classes(backbone)
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert sorted(name.rpartition(".")[2] for name in auto_map.values()) == sorted(
        [type(hybrid.config).__name__, model.__name__, head.__name__]
    )
    command = [sys.executable, "-I", "-c", ISOLATED, str(folder), str(tmp_path / "again")]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == [head.__name__, model.__name__]


def test_projections_that_a_backbone_lacks_are_refused():
    with pytest.raises(ValueError, match=r"`branch_projections` names \['down_proj'\], which no Lfm2DecoderLayer has"):
        upcycle(tiny_dense("lfm2_vl"), branch_kind="lora", branch_projections=["q_proj", "down_proj"])


def test_a_model_that_does_not_fit_is_refused():
    from transformers import GPT2Config, GPT2LMHeadModel

    small = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))
    with pytest.raises(ValueError, match=r"`dense_model` is a GPT2LMHeadModel, .*'qwen2_5_vl', 'qwen3_vl'"):
        upcycle(small)
    with pytest.raises(
        ValueError, match="`thinking_model` is a Qwen3ForCausalLM, but must be a dense LlamaForCausalLM"
    ):
        upcycle(tiny_dense("llama"), thinking_model=tiny_dense("qwen3"))
