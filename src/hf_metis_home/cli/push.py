"""
Send a model, an export, an adapter or rows to the Hub: checked first, complete, and nothing beside. What lies in the
folder says what it is; rows go to a dataset repository. New repositories are private.

See what would be sent, without a network and without a token:

    metis-home push --model_name_or_path runs/hybrid --repo_id me/hybrid --dry_run

Send it, or propose it to somebody else's repository:

    metis-home push --model_name_or_path runs/hybrid --repo_id me/hybrid
    metis-home push --model_name_or_path runs/hybrid --repo_id someone/hybrid --create_pr
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from ._run import run_verb


@dataclass
class PushArguments:
    model_name_or_path: str = field(metadata={"help": "folder of a model, an export, an adapter or rows"})
    repo_id: str = field(metadata={"help": "OWNER/NAME; made if it is not there"})
    dry_run: bool = field(default=False, metadata={"help": "check and list everything, and send nothing"})
    private: bool | None = field(
        default=None,
        metadata={"help": "whether a new repository is private (default: true); one that exists stays as it is"},
    )
    create_pr: bool = field(default=False, metadata={"help": "open a pull request instead of changing a branch"})
    revision: str | None = field(
        default=None, metadata={"help": "branch to change (default: main); refs/pr/N goes on with a pull request"}
    )
    commit_message: str = field(default="Upload with metis-home", metadata={"help": "first line of the commit"})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "run the folder's code to see that it loads, where it is not this package's"}
    )


def main(argv: list[str] | None = None) -> int:
    """`metis-home push`. Takes the flags, gives the exit code: 0 sent, 1 a check failed, 2 refused."""
    failed = []
    code = run_verb(
        "push",
        PushArguments,
        lambda arguments: failed.extend(_push(arguments)),
        argv,
        __doc__,
    )
    return code or int(bool(failed))


def _push(arguments: PushArguments) -> list:
    """Returns the checks that failed, after which nothing was sent."""
    from ..publishing.folder_kind import kind_of
    from ..publishing.push import check_target, plan_push, push_model
    from .validate import print_checks

    target: dict = {"create_pr": arguments.create_pr, "revision": arguments.revision}
    check_target(arguments.repo_id, **target)
    kind_of(Path(arguments.model_name_or_path))
    if not arguments.dry_run:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        from ..publishing.push import check_token

        check_token(HfApi())  # before the checks, which take longer
    plan = plan_push(arguments.model_name_or_path, arguments.repo_id, trust_remote_code=arguments.trust_remote_code)
    _print_files(plan)
    print_checks(plan.checks)
    if plan.failed:
        print(f"{len(plan.failed)} of {len(plan.checks)} checks failed. Nothing was sent.")
        return plan.failed
    size = f"{len(plan.files)} files, {_size(sum(plan.files.values()))}"
    if arguments.dry_run:
        print(f"All checks passed: {size}. Nothing was sent. Next: the same without --dry_run.")
        return []
    done = push_model(
        arguments.model_name_or_path,
        arguments.repo_id,
        private=arguments.private,
        commit_message=arguments.commit_message,
        plan=plan,
        **target,
    )
    loads = _loads(plan.kind, Path(arguments.model_name_or_path), arguments.repo_id, done.commit)
    print(f"Sent {size} to {done.url} ({'private' if done.private else 'public'}). Next: {loads}")
    return []


def _loads(kind: str, folder: Path, repo_id: str, commit: str) -> str:
    """What loads exactly this commit."""
    at = f'"{repo_id}", revision="{commit}"'
    if kind == "dataset":
        return f"datasets.load_dataset({at})"
    if kind == "adapter":
        return f"peft.PeftModel.from_pretrained(base, {at})"
    if kind == "vllm":
        return f"hf download {repo_id} --revision {commit} --local-dir FOLDER"
    if kind == "dense":
        return f"AutoModelForImageTextToText.from_pretrained({at})"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    auto = "AutoModel" if config.get("architectures") == ["MetisHomeModel"] else "AutoModelForImageTextToText"
    return f"{auto}.from_pretrained({at}, trust_remote_code=True)"


def _print_files(plan) -> None:
    if plan.files:
        width = max(map(len, plan.files))
        print(f"Files, {_size(sum(plan.files.values()))}:")
        for name, size in plan.files.items():
            print(f"  {name:<{width}}  {_size(size):>9}")
    if plan.left_out:
        print("Left out:")
        for name, reason in plan.left_out.items():
            print(f"  {name}: {reason}")


def _size(count: float) -> str:
    if count < 1000:
        return f"{count} B"
    units = ["kB", "MB", "GB", "TB"]
    while (count := count / 1000) >= 1000 and len(units) > 1:
        units.pop(0)
    return f"{count:.1f} {units[0]}"


if __name__ == "__main__":
    sys.exit(main())
