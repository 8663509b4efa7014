"""Training in several processes: what `--num_processes` and `--accelerate_config` do."""

from importlib.resources import files
from pathlib import Path
from subprocess import CalledProcessError

from ._arguments import UsageError, read_yaml


CONFIGS = Path(str(files("hf_metis_home"))) / "accelerate_configs"
LAUNCHED = "METIS_HOME_LAUNCHED"  # set in the processes that `launch` starts


def launch(verb: str, argv: list[str], arguments, use_cpu: bool) -> int:
    """
    Run a verb again, once per process.

    Args:
        verb (`str`):
            Name after `metis-home`.
        argv (`list[str]`):
            Its flags and values.
        arguments ([`~cli._training.RunArguments`]):
            `num_processes`, by default as many as the accelerate config says, and `accelerate_config`, the name of a
            config of this package or a file. Without a config every process has the whole model.
        use_cpu (`bool`):
            Whether to train on the CPU, as also without GPUs or with `ACCELERATE_USE_CPU`.

    Returns:
        `int`: exit code of the first process that failed, or 0.

    Raises:
        UsageError: unknown config; more processes than GPUs.
    """
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from accelerate.utils import parse_flag_from_env, patch_environment
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    config = None if arguments.accelerate_config is None else config_file(arguments.accelerate_config)
    settings = {} if config is None else read_yaml(config, "accelerate_config")
    count = arguments.num_processes or settings.get("num_processes", 1)
    gpus = torch.cuda.device_count()
    use_cpu = use_cpu or settings.get("use_cpu") or parse_flag_from_env("ACCELERATE_USE_CPU") or not gpus
    if not use_cpu and count > gpus and settings.get("num_machines", 1) == 1:
        raise UsageError(
            f"{count} processes need {count} GPUs, but this machine has {gpus}. Set --num_processes {gpus} or less."
        )
    words = ["-m", f"hf_metis_home.cli.{verb}", *argv]
    environment = {LAUNCHED: "1", **({"ACCELERATE_USE_CPU": "true"} if use_cpu else {})}
    try:
        with patch_environment(**environment):
            if config is None or use_cpu:  # on CPUs accelerate's own launcher starts one process, whatever it is told
                torchrun.run(torchrun.parse_args(["--standalone", "--nproc_per_node", str(count), *words]))
            else:
                flags = ["--config_file", config, "--num_processes", str(count)]
                launch_command(launch_command_parser().parse_args([*flags, *words]))
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode
    except CalledProcessError as error:
        return error.returncode
    return 0


def config_file(name: str) -> str:
    """The path of an accelerate config, by its name in this package or as a file."""
    if Path(name).is_file():
        return name
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if name not in names:
        raise UsageError(f"`--accelerate_config` is {name!r}, which is neither a file nor one of {', '.join(names)}.")
    return str(CONFIGS / f"{name}.yaml")
