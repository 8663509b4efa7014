"""
Check a model, an export, an adapter or rows, and upload them to the Hub. The folder's contents decide what kind it is;
rows go to a dataset repository. New repositories are private.

See what would be uploaded, without a network or a token:

    metis-home push --model_name_or_path runs/hybrid --repo_id me/hybrid --dry_run

Upload it, or propose it to somebody else's repository:

    metis-home push --model_name_or_path runs/hybrid --repo_id me/hybrid
    metis-home push --model_name_or_path runs/hybrid --repo_id someone/hybrid --create_pr
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.filesize import decimal

from ._arguments import flag
from ._run import verb


@dataclass
class PushArguments:
    model_name_or_path: str = flag("folder of a model, an export, an adapter or rows")
    repo_id: str = flag("OWNER/NAME; created if it does not exist")
    dry_run: bool = flag("check and list everything, but upload nothing", False)
    private: bool | None = flag(
        "whether a new repository is private (default: true); an existing one is not changed", None
    )
    create_pr: bool = flag("open a pull request instead of changing a branch", False)
    revision: str | None = flag("branch to change (default: main), or refs/pr/N to update a pull request", None)
    commit_message: str = flag("first line of the commit", "Upload with metis-home")
    trust_remote_code: bool = flag("run the folder's own code, if any, to check that it loads", False)


@verb
def main(arguments: PushArguments) -> int:
    """Run `metis-home push`. The exit code is 0 after an upload, 1 if a check failed, 2 if it was refused."""
    from ..publishing.folder_kind import kind_of
    from ..publishing.push import check_target, check_token, plan_push, push_model
    from .validate import print_checks

    target: dict = {"create_pr": arguments.create_pr, "revision": arguments.revision}
    check_target(arguments.repo_id, **target)
    kind_of(Path(arguments.model_name_or_path))
    if not arguments.dry_run:
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        check_token(HfApi())  # before the checks, which take longer
    plan = plan_push(arguments.model_name_or_path, arguments.repo_id, trust_remote_code=arguments.trust_remote_code)
    _print_files(plan)
    print_checks(plan.checks)
    if plan.failed:
        print(f"{len(plan.failed)} of {len(plan.checks)} checks failed. Nothing was uploaded.")
        return 1
    size = f"{len(plan.files)} files, {decimal(sum(plan.files.values()))}"
    if arguments.dry_run:
        print(f"All checks passed: {size}. Nothing was uploaded. Next: run it without --dry_run.")
        return 0
    done = push_model(
        arguments.model_name_or_path,
        arguments.repo_id,
        private=arguments.private,
        commit_message=arguments.commit_message,
        plan=plan,
        **target,
    )
    loads = _loads(plan.kind, Path(arguments.model_name_or_path), arguments.repo_id, done.commit)
    print(f"Uploaded {size} to {done.url} ({'private' if done.private else 'public'}). Next: {loads}")
    return 0


def _loads(kind: str, folder: Path, repo_id: str, commit: str) -> str:
    """The call that loads exactly this commit."""
    at = f'"{repo_id}", revision="{commit}"'
    calls = {
        "dataset": f"datasets.load_dataset({at})",
        "adapter": f"peft.PeftModel.from_pretrained(base, {at})",
        "vllm": f"hf download {repo_id} --revision {commit} --local-dir FOLDER",
        "dense": f"AutoModelForImageTextToText.from_pretrained({at})",
    }
    if kind in calls:
        return calls[kind]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    auto = "AutoModel" if config.get("architectures") == ["MetisHomeModel"] else "AutoModelForImageTextToText"
    return f"{auto}.from_pretrained({at}, trust_remote_code=True)"


def _print_files(plan) -> None:
    if plan.files:
        width = max(map(len, plan.files))
        print(f"Files, {decimal(sum(plan.files.values()))}:")
        for name, size in plan.files.items():
            print(f"  {name:<{width}}  {decimal(size):>9}")
    if plan.left_out:
        print("Left out:")
        for name, reason in plan.left_out.items():
            print(f"  {name}: {reason}")


if __name__ == "__main__":
    raise SystemExit(main())
