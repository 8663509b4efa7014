"""
Uploading a folder to the Hub.

huggingface_hub's `upload_folder` does the upload: it handles large folders, and a second run does not send again what
has arrived. This module adds checks before the upload, the list of files, private repositories by default, errors that
users can act on, and a check afterwards that everything arrived.
"""

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..conversion.validate import Check
from ..hub_templates.cards import check_hub_id
from .checks import check_folder
from .folder_kind import Kind, kind_of
from .push_files import STALE, files_to_send, left_out


@dataclass(frozen=True)
class Plan:
    """
    What a push would do.

    Args:
        files (`dict[str, int]`):
            Path in the repository to size in bytes.
        left_out (`dict[str, str]`):
            What is not uploaded, and why.
        checks (`list[Check]`):
            Results of the folder's checks.
        kind (`str`):
            What the folder contains: `"model"` (two branches, or only a router), `"dense"`, `"adapter"`, `"vllm"` or
            `"dataset"`.
    """

    files: dict[str, int]
    left_out: dict[str, str]
    checks: list[Check]
    kind: Kind = "model"

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if not check.ok]


@dataclass(frozen=True)
class Pushed:
    """Where a folder went: `url` of the repository or the pull request, `commit`, `revision` and `private`."""

    url: str
    commit: str
    revision: str
    private: bool


def plan_push(model_name_or_path: str | Path, repo_id: str, *, trust_remote_code: bool = False) -> Plan:
    """
    Check a folder and list what would be uploaded, without a network.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder of a two-branch or dense model, a router, an adapter, an export for vLLM, or rows.
        repo_id (`str`):
            `OWNER/NAME`.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether to run code in the folder that is not this package's version, to see that it loads.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: an invalid `repo_id`, or a folder of another kind.
    """
    folder = Path(model_name_or_path)
    check_target(repo_id)
    kind = kind_of(folder)
    checks = check_folder(folder, repo_id, trust_remote_code)
    try:
        files = files_to_send(folder, kind)
    except (ValueError, OSError):  # a failed check gives the reason
        files = {}
    return Plan(files, left_out(folder, files), checks, kind)


def push_model(
    model_name_or_path: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload with metis-home",
    trust_remote_code: bool = False,
    plan: Plan | None = None,
) -> Pushed:
    """
    Upload a folder to the Hub if all checks pass.

    Args:
        model_name_or_path (`str` or `Path`):
            As in [`plan_push`]. Rows go to a dataset repository, everything else to a model repository.
        repo_id (`str`):
            `OWNER/NAME`. Created if needed, unless `create_pr`.
        private (`bool`, *optional*):
            Whether a new repository is private (the default). An existing one is not changed, but True refuses to
            upload to a public one.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead of changing a branch.
        revision (`str`, *optional*):
            Branch to change, by default `main`; created if needed. `refs/pr/3` continues pull request 3.
        commit_message (`str`, *optional*):
            First line of the commit message.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            As in [`plan_push`].
        plan ([`Plan`], *optional*):
            Result of [`plan_push`], to skip checking the folder and the token again.

    Returns:
        [`Pushed`].

    Raises:
        ValueError: no token or one without write access, a failed check, arguments that do not fit the repository.
            Nothing was uploaded then.
        OSError: the upload stopped; the same call continues it.

    Example:

    ```python
    >>> from hf_metis_home.publishing import push_model

    >>> push_model("runs/hybrid", "me/hybrid").url
    'https://huggingface.co/me/hybrid'
    ```
    """
    from huggingface_hub import HfApi

    check_target(repo_id, create_pr, revision)
    api = HfApi(library_name="hf_metis_home")
    if plan is None:
        check_token(api)  # first, because the checks take longer
        plan = plan_push(model_name_or_path, repo_id, trust_remote_code=trust_remote_code)
    if plan.failed:
        reasons = "\n".join(f"- {check.name}: {check.detail}" for check in plan.failed)
        raise ValueError(f"{len(plan.failed)} checks failed, so nothing was uploaded:\n{reasons}")
    is_dataset = plan.kind == "dataset"
    repo = {"repo_id": repo_id, "repo_type": "dataset" if is_dataset else "model"}
    url = f"{api.endpoint}/{'datasets/' if is_dataset else ''}{repo_id}"
    commit = {"commit_message": commit_message, "revision": revision, "create_pr": create_pr}
    with _errors_explained(repo_id):
        is_private = _prepare(api, repo, url, private, create_pr, revision)
        info = _send(api, plan, repo, folder_path=model_name_or_path, **commit)
    return Pushed(info.pr_url or url, info.oid, info.pr_revision or revision or "main", is_private)


def check_token(api) -> str:
    """The user name of the token. An error if there is no token, or if it cannot write."""
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        user = api.whoami()
    except LocalTokenNotFoundError as error:
        raise ValueError(
            "There is no token for the Hub. Log in with `hf auth login`, or set HF_TOKEN to a token with write access."
        ) from error
    except OfflineModeIsEnabled as error:
        raise ValueError(
            "HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it, or use --dry_run, which needs no network."
        ) from error
    except HTTPError as error:
        if _status(error) == 401:
            raise ValueError(
                "The Hub rejects the token: it is wrong or has expired. Log in with `hf auth login`, or set HF_TOKEN, "
                "which takes precedence."
            ) from error
        raise OSError(f"The Hub at {api.endpoint} did not answer ({_first_line(error)}).") from error
    if ((user.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise ValueError(
            f"The token of {user['name']!r} is read-only. Create one with write access at "
            f"{api.endpoint}/settings/tokens and log in with it, or set HF_TOKEN."
        )
    return user["name"]


def check_target(repo_id: str, create_pr: bool = False, revision: str | None = None) -> None:
    """An error if a folder cannot go there."""
    check_hub_id(repo_id, "repo_id")
    if "/" not in repo_id:
        raise ValueError(f"`repo_id` is {repo_id!r}, but needs an owner: OWNER/{repo_id}.")
    if create_pr and revision not in (None, "main"):
        raise ValueError(
            f"`create_pr` opens a pull request against main, so `revision` cannot be {revision!r}. Drop one of them; "
            "to continue pull request N, pass only `revision` refs/pr/N."
        )


def _prepare(api, repo: dict, url: str, private: bool | None, create_pr: bool, revision: str | None) -> bool:
    """Creates the repository and the branch if needed. Returns whether the repository is private."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        is_private = bool(api.repo_info(**repo).private)
    except RepositoryNotFoundError as error:
        if create_pr:
            raise ValueError(
                f"`repo_id` is {repo['repo_id']!r}, which does not exist or is not visible with this token, so no pull "
                "request can be opened. Push without create_pr to create it."
            ) from error
        is_private = private is not False
        api.create_repo(**repo, private=is_private, exist_ok=True)
    if private and not is_private:
        raise ValueError(
            f"`private` is True, but {repo['repo_id']!r} exists and is public. Make it private at {url}/settings, or "
            "drop `private` to publish the files."
        )
    if revision not in (None, "main") and not revision.startswith("refs/"):
        api.create_branch(**repo, branch=revision, exist_ok=True)
    return is_private


def _send(api, plan: Plan, repo: dict, **options):
    patterns = [glob.escape(name) for name in plan.files]
    try:
        info = api.upload_folder(**repo, allow_patterns=patterns, delete_patterns=list(STALE[plan.kind]), **options)
    except ValueError as error:  # the Hub's verdict on the card
        raise ValueError(f"The Hub rejects the folder: {error}") from error
    arrived = api.list_repo_files(**repo, revision=info.oid)
    if options["create_pr"] and info.pr_url is None:
        raise ValueError(f"{repo['repo_id']!r} already has all of these files, so there is nothing to propose.")
    if missing := sorted(plan.files.keys() - arrived):
        raise ValueError(
            f"{missing} did not arrive in {repo['repo_id']!r}, because its .gitignore excludes them. Remove it and "
            "push again."
        )
    return info


@contextmanager
def _errors_explained(repo_id: str) -> Iterator[None]:
    """Turns the Hub's errors into ones that users can act on."""
    from huggingface_hub.errors import HTTPError

    try:
        yield
    except (HTTPError, RuntimeError) as error:
        status = _status(error) or _status(error.__cause__)
        if status in (401, 403):
            raise ValueError(
                f"The token cannot write to {repo_id!r} (HTTP {status}). Use another token or owner, or open a pull "
                "request with --create_pr."
            ) from error
        if status == 404:
            raise ValueError(f"The Hub cannot find {repo_id!r} or its revision ({_first_line(error)}).") from error
        cause = f": {_first_line(error.__cause__)}" if error.__cause__ else ""
        raise OSError(
            f"The upload to {repo_id!r} stopped ({_first_line(error)}{cause}). Run the same command again: what has "
            "arrived is not sent twice."
        ) from error


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
