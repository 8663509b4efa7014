"""Every recipe parses, names fields that exist, and fits a model of its size, whose weights nobody has to download."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from datasets import Dataset

from hf_metis_home.cli import grpo, main, sft
from hf_metis_home.cli._arguments import parse_arguments
from hf_metis_home.conversion.hybrid_tensors import hybrid_config
from hf_metis_home.miniature.model import build_miniature
from tests.conversion.test_estimate import real_config
from tests.trainers.common import make_rows


ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*/*.yaml"))
ACCELERATE = sorted((ROOT / "src/hf_metis_home/accelerate_configs").glob("*.yaml"))
STAGES = {"stage_rl.yaml": grpo, "stage_sft.yaml": sft}
VERBS = {"upcycle": "UpcycleArguments", "build_data": "BuildDataArguments", "fit_router": "FitRouterArguments"}
VERBS["evaluate"] = "EvalArguments"


def dense_config(size: str):
    return build_miniature()[0].config if size == "miniature" else real_config(size.upper())


@pytest.mark.parametrize("size", ["miniature", "3b", "7b"])
def test_every_size_has_every_stage(size):
    names = {path.stem for path in RECIPES if path.parent.name == size}
    assert names == {"stage_rl", "build_data", "upcycle", "stage_sft", "evaluate", "fit_router"}


@pytest.mark.parametrize("path", [p for p in RECIPES if p.name in STAGES], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_dry_run_at_the_real_shape(path, tmp_path, capsys):
    size, module = path.parent.name, STAGES[path.name]
    config = dense_config(size)
    config = config if module is grpo else hybrid_config(config, router_layer=1)
    config.architectures = None
    config.save_pretrained(tmp_path / "model")
    Dataset.from_list(make_rows((True, False) * 32, images=(1,))).to_parquet(tmp_path / "rows.parquet")
    given = ["--config", str(path), "--model_name_or_path", str(tmp_path / "model"), "--dry_run"]
    given += ["--dataset_name", str(tmp_path / "rows.parquet"), "--output_dir", str(tmp_path / "out")]
    given += ["--use_cpu", "--bf16", "false", "--report_to", "none"]  # what this machine lacks
    assert module.main(given) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    with torch.device("meta"):
        from transformers import AutoModelForImageTextToText

        total = AutoModelForImageTextToText.from_config(config).num_parameters()
    counted = [line.split() for line in printed.splitlines() if " of " in line]
    assert sum(int(words[3].replace(",", "")) for words in counted) == total
    assert all(words[1] == words[3] for words in counted)  # both stages train all of their model
    assert not (tmp_path / "out").exists() and "All checks passed" in printed


@pytest.mark.parametrize("path", [p for p in RECIPES if p.stem in VERBS], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_other_verbs_take_their_recipe(path):
    module = import_module(f"hf_metis_home.cli.{path.stem.replace('evaluate', 'eval')}")
    arguments = parse_arguments(getattr(module, VERBS[path.stem]), ["--config", str(path)], "metis-home", "")
    assert arguments.output_dir.startswith(f"runs/{path.parent.name}/")


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_the_command_in_a_recipe_names_it(path):
    text = path.read_text(encoding="utf-8")
    assert f"--config {path.relative_to(ROOT)}" in text
    assert all((ROOT / word).exists() for word in text.split() if word.startswith("recipes/"))


def test_a_key_that_is_unknown(tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    text = (ROOT / "recipes/3b/stage_sft.yaml").read_text(encoding="utf-8")
    recipe.write_text(text + "router_los_coef: 2.0\n", encoding="utf-8")
    assert main(["sft", "--config", str(recipe)]) == 2
    assert "unknown key 'router_los_coef'. Did you mean router_loss_coef?" in capsys.readouterr().err


def test_the_command_line_wins(tmp_path, capsys):
    assert main(["sft", "--config", str(ROOT / "recipes/3b/stage_sft.yaml"), "--trainable", "nothing"]) == 2
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize("path", ACCELERATE, ids=lambda p: p.stem)
def test_accelerate_reads_its_configurations(path):
    config = load_config_from_file(str(path))
    plugins = {"zero2": 2, "zero3": 3}
    if path.stem in plugins:
        plugin = (
            DeepSpeedPlugin(
                zero_stage=config.deepspeed_config["zero_stage"],
                zero3_init_flag=config.deepspeed_config["zero3_init_flag"],
            )
            if _has_deepspeed()
            else None
        )
        assert config.deepspeed_config["zero_stage"] == plugins[path.stem] and (plugin is None or plugin.zero_stage)
    elif path.stem == "fsdp2":
        options = {name.removeprefix("fsdp_"): value for name, value in config.fsdp_config.items()}
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=options["version"], auto_wrap_policy=options["auto_wrap_policy"].lower(),
            reshard_after_forward=options["reshard_after_forward"], state_dict_type=options["state_dict_type"],
        )  # fmt: skip
        assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    else:
        assert str(config.distributed_type).endswith({"one_gpu": "NO", "ddp": "MULTI_GPU"}[path.stem])


def _has_deepspeed() -> bool:
    from importlib.util import find_spec

    return find_spec("deepspeed") is not None
