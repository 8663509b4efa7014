"""Every benchmark runs at tiny sizes, fills its section with the promised columns, and writes nowhere else."""

import importlib
import os
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import common


ROOT = Path(__file__).parents[1]
TINY = (
    "--repeats 1 --threads 1 2 --hidden 32 --ffn 48 --layers 3 --vocab 64 --vision_depth 2 --batch 4 --text_tokens 8 "
    "--image_side 4 --skip_memory"
).split()
FLAGS = {
    "branches": ["--decode_tokens", "2"],
    "rivals": ["--answer_tokens", "2"],
    "end_to_end": "--queries 10 --direct_tokens 2 --thinking_tokens 4".split(),
    "trainers": ["--batch", "4"],
}
COLUMNS = {
    "branches": [
        {"`router_layer`", "ms", "quartiles", "to dense"},
        {"MB read", "bytes bound", "measured"},
        {"route, ms", "prefill, ms", "share", "share with vision tower"},
        {"route, Tflop", "prefill, Tflop", "share"},
        {"AdamW, foreach", "ms"},
        {"AdamW, fused", "ms"},
    ],
    "rivals": [{"prefill, ms", "step, ms", "to dense"}],
    "end_to_end": [{"s per query", "tokens/s", "decoding steps"}],
    "trainers": [{"ms", "quartiles", "to TRL", "with optimizer, ms"}, {"ms", "to mixed"}],
}
written, watching = [], []


def _watch(event, args):
    if watching and event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        if args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            written.append(Path(os.fsdecode(args[0])).resolve())


@pytest.fixture
def opened_for_writing(monkeypatch):
    """Paths that this process opens for writing. An audit hook cannot be removed, so it is switched."""
    if not hasattr(sys, "_metis_home_watch"):
        sys.addaudithook(_watch)
        sys._metis_home_watch = True
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    written.clear()
    watching.append(True)
    yield written
    watching.clear()


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def headers(text: str) -> list[set[str]]:
    lines = text.splitlines()
    return [
        {cell.strip() for cell in line.strip("|").split("|")}
        for line, below in zip(lines, lines[1:], strict=False)
        if below.startswith("| ---")
    ]


# One of them stands for what they share; the others take up to a minute each.
@pytest.mark.parametrize(
    "name", [name if name == "end_to_end" else pytest.param(name, marks=pytest.mark.slow) for name in FLAGS]
)
def test_benchmark_fills_its_section(name, tmp_path, opened_for_writing, one_thread):
    page = tmp_path / "page.md"
    page.write_text(f"above\n<!-- {name}: start -->\nold\n<!-- {name}: end -->\nbelow\n")
    importlib.import_module(f"benchmarks.{name}").main([*TINY, *FLAGS[name], "--output", str(page)])
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "\nold\n" not in text
    assert f"`python -m benchmarks.{name} --repeats 1" in text and str(tmp_path) not in text
    assert text.count("### With 1 thread\n") == text.count("### With 2 threads\n") == 1
    picture = re.search(r"!\[.*\]\((.*)\)", text).group(1)
    assert "2 threads" in (tmp_path / picture).read_text() and not list(tmp_path.rglob("*.partial"))
    for columns in COLUMNS[name]:
        assert any(columns <= header for header in headers(text)), f"no table with {sorted(columns)}"
    assert not re.search(r"\bnan\b|\binf\b", text)
    assert opened_for_writing and [path for path in opened_for_writing if tmp_path not in path.parents] == []


UPCYCLE_COLUMNS = [{"s", "quartiles", "GB/s written", "to a copy"}, {"MB"}]


def check_upcycle_section(page: Path) -> None:
    text = page.read_text()
    assert text.startswith("above\n") and text.endswith("below\n") and "\nold\n" not in text
    assert "`python -m benchmarks.upcycle --shape tiny --repeats 1" in text and str(page.parent) not in text
    assert "2 cores, used" not in text and "Random weights: hidden size 64, FFN 256, 3 layers" in text
    assert headers(text) == [columns | {""} for columns in UPCYCLE_COLUMNS]
    cells = {line.split("|")[1].strip(): line.split("|")[2:] for line in text.splitlines() if line.startswith("| ")}
    assert {"plain copy of the result", "upcycling", "largest input shard", "peak of upcycling", "allowed"} <= set(
        cells
    )
    assert float(cells["upcycling"][3]) > 0 and not re.search(r"\bnan\b|\binf\b", text)


@pytest.fixture
def upcycle_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("above\n<!-- upcycle: start -->\nold\n<!-- upcycle: end -->\nbelow\n")
    return page


def test_upcycle_benchmark_fills_its_section(upcycle_page, monkeypatch, opened_for_writing):
    from benchmarks import upcycle
    from hf_metis_home.conversion import upcycle_checkpoint

    def convert(source, target):  # in this process: another takes seconds to import
        began = time.perf_counter()
        upcycle_checkpoint(source, target)
        return time.perf_counter() - began, 400e6

    monkeypatch.setattr(upcycle, "convert", convert)
    folder = upcycle_page.parent
    upcycle.main(["--shape", "tiny", "--repeats", "1", "--dir", str(folder), "--output", str(upcycle_page)])
    check_upcycle_section(upcycle_page)
    assert "and 300 MB, is missed" in upcycle_page.read_text()  # 400 MB are said to have been needed
    assert opened_for_writing and [path for path in opened_for_writing if folder not in path.parents] == []
    assert [path.name for path in folder.iterdir()] == ["page.md"]


@pytest.mark.slow
def test_upcycle_benchmark_in_processes(upcycle_page):
    from benchmarks import upcycle

    upcycle.main(
        ["--shape", "tiny", "--repeats", "1", "--dir", str(upcycle_page.parent), "--output", str(upcycle_page)]
    )
    check_upcycle_section(upcycle_page)
    assert "and 300 MB, is met" in upcycle_page.read_text()


@pytest.mark.parametrize(("free", "message"), [(10**6, "has 0.0 GB free, but"), (None, "which is no folder")])
def test_upcycle_benchmark_needs_room(upcycle_page, monkeypatch, capsys, free, message):
    from benchmarks import upcycle

    folder = upcycle_page.parent
    if free is not None:
        usage = shutil.disk_usage(folder)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    place = folder if free is not None else folder / "nowhere"
    with pytest.raises(SystemExit):
        upcycle.main(["--shape", "tiny", "--dir", str(place), "--output", str(upcycle_page)])
    assert message in capsys.readouterr().err and "old" in upcycle_page.read_text()
    assert [path.name for path in folder.iterdir()] == ["page.md"]


def test_shape_of_the_3b_model():
    from benchmarks import upcycle

    config, tensors = upcycle.dense_tensors("3b")
    assert config.vision_config.fullatt_block_indexes == [7, 15, 23, 31] and config.tie_word_embeddings
    assert {name.split(".")[0] for name in tensors} == {"model", "visual"}
    assert tensors["model.layers.35.mlp.down_proj.weight"].shape == (2048, 11008)
    assert sum(tensor.nbytes for tensor in tensors.values()) == 2 * 3_754_622_976  # Qwen2.5-VL-3B-Instruct's


def test_page_has_a_section_per_benchmark():
    common.markers(common.PAGE, "serving_vllm")
    for name in [*FLAGS, "upcycle", "serving"]:
        common.markers(common.PAGE, name)
        text = " ".join(common.PAGE.read_text().split())  # a sentence may go over two lines
        assert re.search(rf"`python -m benchmarks\.{name}[^`]*` writes this section", text)


def test_page_without_markers_is_refused_before_measuring(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("mine\n")
    with pytest.raises(SystemExit):
        importlib.import_module("benchmarks.end_to_end").main(["--output", str(page)])
    assert "<!-- end_to_end: start -->" in capsys.readouterr().err
    assert page.read_text() == "mine\n"


def test_variants_take_turns_and_only_run_is_timed():
    order = []

    def variant(name, seconds):
        return common.Variant(lambda: (order.append(name), time.sleep(seconds)), lambda: time.sleep(0.1), count=2)

    timings = common.measure({"a": variant("a", 0.0), "b": variant("b", 0.06)}, repeats=3, device="cpu")
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert timings["a"].median < 0.025 and 0.03 <= timings["b"].median < 0.05


def _hold(size):
    bytearray(os.urandom(1)) * (size * 10**6)


@pytest.mark.slow
def test_peak_memory_is_that_of_the_function_alone():
    ballast = bytearray(b"x") * 800_000_000  # a child must not inherit the mark of its parent
    peak = common.peak_memory("cpu", 1, _hold, 300)
    del ballast
    assert 295 < peak < 400


def test_rows_of_the_router_benchmark_are_rows():
    from benchmarks.router_defaults import conversation
    from hf_metis_home.data import check_row
    from hf_metis_home.miniature.tasks import make_dataset

    first, second = make_dataset({"chain": 1, "corner": 1}, "dev", seed=0)
    for earlier in (None, first):
        row = conversation(second, earlier)
        check_row(row, 0)
        assert row["prompt"][-1]["content"][-1]["text"] == second["prompt"][0]["content"]
        assert len(row["images"]) == (1 if earlier is None else 2) and row["thinking"] == second["thinking"]
