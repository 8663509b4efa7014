"""Conversion where something goes wrong: killed, given damaged input, out of room; and what several sources make."""

import contextlib
import errno
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen2_5_VLForConditionalGeneration as Dense

from hf_metis_home._folders import staged_folder
from hf_metis_home._versions import versions
from hf_metis_home.cli.upcycle import main as upcycle_command
from hf_metis_home.conversion import export_checkpoint, upcycle, upcycle_checkpoint
from hf_metis_home.conversion.checkpoint import INDEX, is_branch_tensor, native_name

from .common import dense_of, hybrid_of, logits, rewrite, save_dense, stored


ROOT = Path(__file__).parents[2]
SOURCES = [("thinking", "non_thinking"), ("thinking",), ("non_thinking",)]
SHARED, OWN = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("source") / "dense")


@pytest.fixture(scope="module")
def thinking(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("source") / "thinking", seed=1)


@pytest.fixture(scope="module")
def non_thinking(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("source") / "non_thinking", seed=2)


@pytest.fixture(scope="module")
def in_shards(tmp_path_factory):
    return save_dense(tmp_path_factory.mktemp("source") / "in_shards", max_shard_size="50KB")


@pytest.fixture
def sharded(tmp_path, in_shards):
    """A checkpoint to damage."""
    return Path(shutil.copytree(in_shards, tmp_path / "source"))


def child(*words: str, **kwargs) -> subprocess.CompletedProcess:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=True, **kwargs
    )


# Killed


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_point(tmp_path, in_shards, step):
    done = child("-m", "tests.conversion.killed", str(in_shards), str(tmp_path), str(step))
    for attempts in json.loads(done.stdout.splitlines()[-1]).values():
        signals = {kind: [a["signal"] for a in attempts if a["kind"] == kind] for kind in ("operation", "byte", "none")}
        assert len(signals["operation"]) > 15 / step and all(signals["operation"][:-1]) and all(signals["byte"])
        assert signals["operation"][-1] == signals["none"][0] == 0
        # If no death left anything half-done behind, the rest would have looked at nothing.
        assert sum(bool(attempt["left"]) for attempt in attempts) > 10 / step
        for attempt in attempts:
            assert attempt["output"] in (["absent", "whole"] if attempt["signal"] else ["whole"]), attempt
            assert attempt["inputs_unchanged"], attempt
            assert attempt.get("next_whole", True) and not attempt.get("left_after_next"), attempt
        assert sum("next_whole" in attempt for attempt in attempts) >= 4


def test_partial_folder_of_the_own_process_id(tmp_path):
    """In a container the process that died and the one that comes next often have the same number."""
    with pytest.raises(RuntimeError), staged_folder(tmp_path / "out") as staging:
        name = staging.name
        raise RuntimeError
    (tmp_path / name).mkdir()
    (tmp_path / name / "model.safetensors").write_text("half")
    with staged_folder(tmp_path / "out") as staging:
        assert list(staging.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_writers_in_one_process(tmp_path):
    with staged_folder(tmp_path / "out") as staging:
        (staging / "file").write_text("first")
        with pytest.raises(OSError, match="`output_dir` is .*out'"), staged_folder(tmp_path / "out"):
            raise AssertionError("the block must not begin")
    assert (tmp_path / "out/file").read_text() == "first"


# Bad input


def refused(tmp_path, source, error=ValueError, **arguments) -> str:
    """The message with which a conversion is refused; nothing is left behind."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error) as raised:
        upcycle_checkpoint(source, tmp_path / "out", **arguments)
    assert sorted(tmp_path.rglob("*")) == before
    return str(raised.value)


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def edit_index(folder: Path, change) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] = change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("size", [0, 4, 100, -1])
def test_truncated_shard(tmp_path, sharded, size):
    path = shards(sharded)[1]
    path.write_bytes(path.read_bytes()[:size])
    message = refused(tmp_path, sharded)
    assert message.startswith(f"`model_name_or_path`: {str(path)!r} is truncated or damaged (")
    assert message.endswith("Fetch or save the checkpoint again.")


def test_corrupted_header(tmp_path, sharded, dense):
    path = shards(sharded)[0]
    content = bytearray(path.read_bytes())
    content[8:20] = b"\xff" * 12
    path.write_bytes(content)
    message = refused(tmp_path, dense, thinking_model=sharded)
    assert message.startswith(f"`thinking_model`: {str(path)!r} is truncated or damaged (")


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: {**weights, "model.layers.7.mlp.up_proj.weight": weights[OWN]},
        lambda weights: {name: file for name, file in weights.items() if name != OWN},
    ],
    ids=["more in the index", "more in the shards"],
)
def test_index_that_disagrees(tmp_path, sharded, change):
    edit_index(sharded, change)
    message = refused(tmp_path, sharded)
    assert re.match(
        f"`model_name_or_path` is {str(sharded)!r}, in which {INDEX} and the shards disagree on 1 tensors: "
        r"model\.layers\.\d\.mlp\.up_proj\.weight\. Fetch or save the checkpoint again\.$",
        message,
    ), message


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": ["a"]}'])
def test_damaged_index(tmp_path, sharded, text):
    (sharded / INDEX).write_text(text)
    message = refused(tmp_path, sharded)
    assert message.startswith(f"`model_name_or_path` is {str(sharded)!r}, with a damaged {INDEX} (")
    assert message.endswith("Fetch or save the checkpoint again.")


def test_two_saves_in_one_folder(tmp_path, sharded, dense):
    """transformers would load the other one."""
    shutil.copy(dense / "model.safetensors", sharded)
    message = refused(tmp_path, sharded)
    assert message.startswith(f"`model_name_or_path` is {str(sharded)!r}, with both {INDEX} and ")
    assert message.endswith("Remove whichever is left over from an earlier save.")


@pytest.mark.parametrize("text", ["{", "[]", ""])
def test_damaged_config(tmp_path, sharded, text):
    (sharded / "config.json").write_text(text)
    message = refused(tmp_path, sharded)
    assert message.startswith(f"`model_name_or_path` is {str(sharded)!r}, with a damaged config.json (")
    assert message.endswith("Fetch or save the checkpoint again.")


def test_tensor_in_two_shards(tmp_path, sharded):
    first, second = shards(sharded)[:2]
    name, tensor = next(iter(load_file(first).items()))
    # Under either of its names.
    save_file({**load_file(second), native_name(name): tensor}, second, {"format": "pt"})
    message = refused(tmp_path, sharded)
    assert message.startswith(f"`model_name_or_path` is {str(sharded)!r}, in which the tensor {native_name(name)} is ")
    assert first.name in message and second.name in message and message.endswith("Fetch or save the checkpoint again.")


def test_missing_shard_of_another_source(tmp_path, sharded, dense):
    shards(sharded)[1].unlink()
    message = refused(tmp_path, dense, FileNotFoundError, non_thinking_model=sharded)
    assert message.startswith(f"`non_thinking_model` is {str(sharded)!r}, with missing shards: ")


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_weights_of_another_type(tmp_path, dense, dtype):
    source = rewrite(dense, tmp_path / "source", lambda tensors: {**tensors, OWN: tensors[OWN].to(dtype)})
    message = refused(tmp_path, source)
    assert re.match(rf"`model_name_or_path`: {OWN} in '.*' has dtype (I8|U8|F8_E4M3), but weights must be", message)
    assert message.endswith("Convert the original weights, not quantised ones.")


def test_quantised_checkpoint(tmp_path, dense):
    source = Path(shutil.copytree(dense, tmp_path / "source"))
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "awq", "bits": 4}
    (source / "config.json").write_text(json.dumps(config))
    for arguments in ({}, {"thinking_model": source}):
        message = refused(tmp_path, dense if arguments else source, **arguments)
        argument = next(iter(arguments), "model_name_or_path")
        assert message.startswith(f"`{argument}` is {str(source)!r}, a quantised checkpoint. Convert the original")


@pytest.mark.parametrize(
    ("sizes", "tensor"),
    [
        ({"vocab_size": 120}, "model.language_model.embed_tokens.weight"),
        ({"intermediate_size": 64}, "model.language_model.layers.0.mlp."),
        ({"num_layers": 3}, None),
    ],
)
def test_sources_of_other_sizes(tmp_path, dense, sizes, tensor):
    from ..fixtures_text import tiny_dense, word_level_processor

    other = tmp_path / "other"
    tiny_dense(word_level_processor(), **sizes).save_pretrained(other)
    word_level_processor().save_pretrained(other)
    message = refused(tmp_path, dense, thinking_model=other)
    assert re.match("`thinking_model` and the dense model disagree on model", message), message
    assert tensor is None or f"disagree on {tensor}" in message
    assert message.endswith("Sizes must match.")


@pytest.mark.parametrize("format", ["dense", "router"])
def test_damaged_two_branch_model(tmp_path, dense, format):
    hybrid = upcycle_checkpoint(dense, tmp_path / "hybrid")
    path = hybrid / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="`model_name_or_path`: '.*' is truncated or damaged"):
        export_checkpoint(hybrid, tmp_path / "out", format=format, branch="thinking" if format == "dense" else None)
    assert [path.name for path in tmp_path.iterdir()] == ["hybrid"]


def test_pickle_is_refused_with_the_way_to_convert(tmp_path, dense):
    source = Path(shutil.copytree(dense, tmp_path / "source"))
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    message = refused(tmp_path, source, FileNotFoundError)
    assert "pytorch_model.bin is a pickle" in message and "write it again with `save_pretrained`" in message


# A place that cannot take the output


def test_full_disk_is_seen_before(tmp_path, dense, monkeypatch):
    hybrid = upcycle_checkpoint(dense, tmp_path / "hybrid")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    for convert in (
        lambda: upcycle_checkpoint(dense, tmp_path / "new/out"),
        lambda: export_checkpoint(hybrid, tmp_path / "new/out", format="dense", branch="thinking"),
        lambda: export_checkpoint(hybrid, tmp_path / "new/out", format="router"),
    ):
        with pytest.raises(OSError) as raised:
            convert()
        assert re.match(
            r"`output_dir` needs 0\.\d MB, but its disk has 0\.0 MB free\. Choose another disk\.$",
            str(raised.value),
        ), str(raised.value)
        assert not list(tmp_path.rglob("*.partial")) and not (tmp_path / "new/out").exists()


@contextlib.contextmanager
def limited(size: int):
    """No file of this process may become larger; a write beyond fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [0, 500, 20_000])
def test_write_that_fails(tmp_path, dense, in_shards, size):
    hybrid = upcycle_checkpoint(dense, tmp_path / "hybrid")
    for convert in (
        lambda: upcycle_checkpoint(dense, tmp_path / "out"),
        lambda: export_checkpoint(hybrid, tmp_path / "out", format="dense", branch="thinking"),
    ):
        with pytest.raises(OSError) as raised, limited(size):
            convert()
        assert re.match(
            rf"`output_dir` is {str(tmp_path / 'out')!r}, which could not be written \(.*[Ff]ile too large.*\)\. "
            r"Free some space, or choose another folder\.$",
            str(raised.value),
        ), str(raised.value)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["hybrid"]


def test_disk_that_is_full_after_the_weights(tmp_path, dense, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "tokenizer.json")

    monkeypatch.setattr("transformers.Qwen2_5_VLProcessor.save_pretrained", full)
    message = refused(tmp_path, dense, OSError)
    assert message.startswith(f"`output_dir` is {str(tmp_path / 'out')!r}, which could not be written (")


@pytest.mark.parametrize("place", ["below a file", "/proc"])
def test_no_place_to_write(tmp_path, dense, monkeypatch, place):
    (tmp_path / "file").write_text("mine")
    output = tmp_path / "file/sub/out" if place == "below a file" else Path("/proc/metis/out")
    if place == "/proc":  # gives no space either, which is found first
        monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 0, 10**12))
    with pytest.raises(OSError) as raised:
        upcycle_checkpoint(dense, output)
    message = str(raised.value)
    assert message.startswith(f"`output_dir` is {str(output)!r}, where no folder can be created ("), message
    assert message.endswith("). Choose another place.")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_existing_output(tmp_path, dense, kind):
    hybrid = upcycle_checkpoint(dense, tmp_path / "hybrid")
    mine = tmp_path / "out" if kind == "file" else tmp_path / "out/notes.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(FileExistsError, match="`output_dir` is .*/out', which is not empty. Choose another"):
        export_checkpoint(hybrid, tmp_path / "out", format="dense", branch="thinking")
    assert mine.read_text() == "mine" and sorted(path.name for path in tmp_path.iterdir()) == ["hybrid", "out"]


def test_output_that_gets_content_meanwhile(tmp_path):
    """What somebody else put there stays; what was made does not stay beside it."""
    with pytest.raises(OSError, match="`output_dir` is .*/out'.* Choose another folder"):
        with staged_folder(tmp_path / "out") as staging:
            (staging / "file").write_text("made")
            (tmp_path / "out").mkdir()
            (tmp_path / "out/notes.txt").write_text("theirs")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("exists", [True, False])
def test_output_is_a_link(tmp_path, exists):
    """Files go where the link points, onto the disk that it chooses, never onto another."""
    (tmp_path / "disk").mkdir()
    if exists:
        (tmp_path / "disk/out").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk/out")
    with staged_folder(tmp_path / "out") as staging:
        assert staging.parent == tmp_path / "disk"
        (staging / "file").write_text("text")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk/out/file").read_text() == "text"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["out"]


def test_output_is_a_mounted_disk(tmp_path, dense, monkeypatch):
    """As a volume of a container is."""
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "out")
    message = refused(tmp_path, dense, OSError)
    assert message.startswith(f"`output_dir` is {str(tmp_path / 'out')!r}, a mount point, ")
    assert message.endswith("Choose a folder in it.")


def test_output_is_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    with staged_folder(".") as staging:
        (staging / "file").write_text("text")
    assert (tmp_path / "out/file").read_text() == "text"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_weights_can_be_read_by_who_can_read_the_rest(tmp_path, dense):
    output = upcycle_checkpoint(dense, tmp_path / "out")
    modes = {path.name: path.stat().st_mode for path in output.iterdir()}
    assert modes["model.safetensors"] == modes["config.json"]


# Several sources


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shared_from", "given"),
    [
        *(("base", given) for given in SOURCES),
        *(("mean", given) for given in SOURCES),
        *(("thinking", given) for given in SOURCES if "thinking" in given),
    ],
)
def test_shared_from(tmp_path, dense, thinking, non_thinking, shared_from, given, dtype):
    folders = {"base": dense, "thinking": thinking, "non_thinking": non_thinking}
    if dtype != torch.float32:
        for name, folder in folders.items():
            folders[name] = rewrite(
                folder, tmp_path / name, lambda tensors: {n: t.to(dtype) for n, t in tensors.items()}
            )
    sources = {f"{branch}_model": folders[branch] for branch in given}
    output = upcycle_checkpoint(folders["base"], tmp_path / "out", shared_from=shared_from, router_layer=1, **sources)
    written = stored(output)

    base, one, two = (
        {native_name(name): tensor for name, tensor in stored(folders[name if name in given else "base"]).items()}
        for name in ("base", *("thinking", "non_thinking"))
    )
    shared = {
        "base": lambda name: base[name],
        "thinking": lambda name: one[name],
        "mean": lambda name: ((one[name].float() + two[name].float()) / 2).to(dtype),
    }[shared_from]
    for name in base:
        if is_branch_tensor(name, 1):
            for branch, source in (("thinking", one), ("non_thinking", two)):
                assert torch.equal(written[name.replace(".mlp.", f".mlp.{branch}.")], source[name]), name
        else:
            assert written[name].dtype == dtype and torch.equal(written[name], shared(name)), name

    models = {name: Dense.from_pretrained(folder, dtype=dtype).eval() for name, folder in folders.items()}
    sources = {f"{branch}_model": models[branch] for branch in given}
    in_memory = upcycle(models["base"], shared_from=shared_from, router_layer=1, **sources)
    state = in_memory.state_dict()
    assert state.keys() == written.keys()
    assert [name for name, tensor in state.items() if not torch.equal(tensor, written[name])] == []
    assert [name for name, tensor in state.items() if tensor.dtype != written[name].dtype] == []
    if shared_from == "thinking":
        for model in (in_memory.eval(), hybrid_of(output, dtype=dtype)):
            assert torch.equal(logits(model, thinking=True), logits(models["thinking"]))


def test_means_are_not_the_sources(dense, thinking, non_thinking):
    """Else the test above could not tell them apart."""
    tensors = [stored(folder)[SHARED] for folder in (dense, thinking, non_thinking)]
    assert not torch.equal(tensors[0], tensors[1]) and not torch.equal(tensors[1], tensors[2])


@pytest.mark.parametrize(
    ("shared_from", "given", "message"),
    [
        (
            "thinking",
            ["non_thinking"],
            "`shared_from` is 'thinking', but `thinking_model` is not given. Pass one, or use",
        ),
        ("thinking", [], "`shared_from` is 'thinking', but `thinking_model` is not given. Pass one, or use 'base'."),
        ("mean", [], "`shared_from='mean'` needs a `thinking_model` or `non_thinking_model`. Pass"),
        ("dense", ["thinking"], r"`shared_from` is 'dense', but must be one of \['base', 'thinking', 'mean'\]"),
    ],
)
def test_shared_from_is_refused(tmp_path, dense, thinking, non_thinking, shared_from, given, message):
    folders = {"thinking": thinking, "non_thinking": non_thinking}
    found = refused(
        tmp_path, dense, shared_from=shared_from, **{f"{branch}_model": folders[branch] for branch in given}
    )
    assert re.match(message, found), found
    with pytest.raises(ValueError, match=message):
        models = {f"{branch}_model": dense_of(folders[branch]) for branch in given}
        upcycle(dense_of(dense), shared_from=shared_from, **models)


def test_head_that_one_source_ties(tmp_path, dense, thinking):
    def without_head(tensors):
        return {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}

    tied = rewrite(thinking, tmp_path / "tied", without_head)
    config = json.loads((tied / "config.json").read_text())
    (tied / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    for shared_from in ("thinking", "mean"):
        message = refused(tmp_path, dense, thinking_model=tied, shared_from=shared_from)
        assert message.startswith("The sources disagree on tying the head to the embeddings. Use `shared")
    upcycle_checkpoint(dense, tmp_path / "out", thinking_model=tied)


# The record


def test_record(tmp_path, in_shards, thinking, non_thinking):
    sources = {"model_name_or_path": in_shards, "thinking_model": thinking, "non_thinking_model": non_thinking}
    words = [word for name, path in sources.items() for word in (f"--{name}", str(path))]
    words += ["--output_dir", str(tmp_path / "out put"), "--shared_from", "mean", "--router_layer", "1"]
    assert upcycle_command(words) == 0
    record = json.loads((tmp_path / "out put/upcycle.json").read_text())
    digests = {
        name: {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in shards(folder)}
        for name, folder in sources.items()
    }
    assert len(digests["model_name_or_path"]) > 1 and record.pop("sha256") == digests
    command = record.pop("command")
    assert command.startswith("metis-home upcycle --model_name_or_path ") and f"'{tmp_path / 'out put'}'" in command
    for word in ("--thinking_model", "--non_thinking_model", "--shared_from mean", "--router_layer 1"):
        assert word in command
    assert record.pop("versions") == versions()
    assert {name: record[name] for name in sources} == {name: str(path) for name, path in sources.items()}
    assert (record["layout"], record["shared_from"], record["router_layer"]) == ("legacy", "mean", 1)
    assert record["stored_head"] is True and record["thinking_adapter"] is None


# Memory

MEASURE = """
import sys, threading, time
from pathlib import Path
from hf_metis_home.conversion import upcycle_checkpoint

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon")) * 1024

def watch():
    global peak
    while True:
        peak = max(peak, anonymous())
        time.sleep(0.002)

peak = 0
threading.Thread(target=watch, daemon=True).start()
source, folder = map(Path, sys.argv[1:])
upcycle_checkpoint(source, folder / "warm-up", router_layer=3)
for name, options in {"unchanged": {}, "float16": {"dtype": "float16"}, "mean": {
    "shared_from": "mean", "thinking_model": source, "router_layer": 3
}}.items():
    before = peak = anonymous()
    upcycle_checkpoint(source, folder / name, **options)
    print(name, peak - before)
"""


@pytest.mark.slow
def test_memory(tmp_path):
    from transformers import Qwen2_5_VLConfig

    from hf_metis_home.conversion.checkpoint import LazyTensor, expected_shapes
    from hf_metis_home.conversion.tensor_writer import write_shards

    from ..fixtures_text import tiny_dense, word_level_processor

    source, processor = tmp_path / "source", word_level_processor()
    fields = tiny_dense(processor).config.to_dict()
    fields["text_config"] |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 10}
    fields["text_config"].pop("layer_types")  # one per layer
    fields["vision_config"] |= {"out_hidden_size": 1024}
    config = Qwen2_5_VLConfig(**fields)
    tensors = {
        name: LazyTensor(shape, torch.bfloat16, lambda shape=shape: torch.zeros(shape, dtype=torch.bfloat16))
        for name, shape in expected_shapes(config).items()
    }
    source.mkdir()
    write_shards(source, tensors, 10**9)
    config.save_pretrained(source)
    processor.save_pretrained(source)
    size = sum(path.stat().st_size for path in shards(source))
    done = child("-c", MEASURE, str(source), str(tmp_path))
    growth = {name: int(number) for name, number in (line.split() for line in done.stdout.splitlines())}
    assert size > 3e8 and growth.keys() == {"unchanged", "float16", "mean"}
    # The largest tensor has 8 MB; one that is averaged is there four times in fp32 for a moment.
    assert growth["unchanged"] < 0.05 * size and 8e6 < growth["mean"] < 100e6 and growth["float16"] < 100e6, growth
