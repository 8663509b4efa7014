"""
A folder to the Hub.

Over huggingface_hub's `upload_folder`, which takes large folders: with hf-xet in several commits, and without in one,
of which what has arrived is not sent again when the same call is made once more. Here is what goes around it: checks
before, the list of what belongs, private by default, errors that a user can act on, and a look at what has arrived.
"""

import glob
from dataclasses import dataclass
from pathlib import Path

from ..conversion.validate import Check
from .checks import check_folder
from .folder_kind import Kind, kind_of
from .push_files import STALE, files_to_send, left_out


RUN_AGAIN = "Run the same command again: what has arrived is not sent twice."


@dataclass(frozen=True)
class Plan:
    """
    What a push would do.

    Args:
        files (`dict[str, int]`):
            Path in the repository to bytes.
        left_out (`dict[str, str]`):
            What stays here, and why.
        checks (`list[Check]`):
            Of the folder.
        kind (`str`):
            What the folder holds: `"model"` (two branches, or a router alone), `"dense"`, `"adapter"`, `"vllm"` or
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
    """Where a folder went: `url` of the repository or of the pull request, `commit`, `revision`, `private`."""

    url: str
    commit: str
    revision: str
    private: bool


def plan_push(model_name_or_path: str | Path, repo_id: str, *, trust_remote_code: bool = False) -> Plan:
    """
    Look at a folder and see what would be sent, without the network.

    Args:
        model_name_or_path (`str` or `Path`):
            Folder of a two-branch or dense model, of a router, of an adapter, of an export for vLLM, or of rows.
        repo_id (`str`):
            `OWNER/NAME`.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code in the folder that is not this package's version may run, to see that it loads.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a `repo_id` that cannot be one, or a folder of none of these kinds.
    """
    folder = Path(model_name_or_path)
    _check_repo_id(repo_id)
    kind = kind_of(folder)
    checks = check_folder(folder, repo_id, trust_remote_code)
    try:
        files = files_to_send(folder, kind)
    except (ValueError, OSError):  # among the checks, with its reason
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
    Send a folder to the Hub, if all checks pass.

    Args:
        model_name_or_path (`str` or `Path`):
            As in [`plan_push`]. Rows go to a dataset repository, everything else to a model repository.
        repo_id (`str`):
            `OWNER/NAME`. Made if it is not there, unless `create_pr`.
        private (`bool`, *optional*):
            Whether a new repository is private; it is by default. One that exists stays as it is, but True refuses a
            public one.
        create_pr (`bool`, *optional*, defaults to `False`):
            Open a pull request instead of changing a branch.
        revision (`str`, *optional*):
            Branch to change, by default `main`; made if it is not there. `refs/pr/3` goes on with pull request 3.
        commit_message (`str`, *optional*):
            First line of the commit.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            As in [`plan_push`].
        plan ([`Plan`], *optional*):
            What [`plan_push`] gave, so that nothing is checked twice, the token neither.

    Returns:
        [`Pushed`].

    Raises:
        ValueError: no token, one that may not write, a check that failed, a repository that the arguments do not fit.
            Nothing was sent then.
        OSError: the upload stopped; the same call goes on with it.

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
        check_token(api)  # before the checks, which take longer
        plan = plan_push(model_name_or_path, repo_id, trust_remote_code=trust_remote_code)
    if plan.failed:
        reasons = "\n".join(f"- {check.name}: {check.detail}" for check in plan.failed)
        raise ValueError(f"{len(plan.failed)} checks failed, so nothing was sent:\n{reasons}")
    repo_type = "dataset" if plan.kind == "dataset" else "model"
    is_private = _prepare(api, repo_id, repo_type, private, create_pr, revision)
    info = _send(
        api,
        plan,
        repo_id=repo_id,
        repo_type=repo_type,
        folder_path=model_name_or_path,
        commit_message=commit_message,
        revision=revision,
        create_pr=create_pr,
    )
    target = info.pr_revision or revision or "main"
    place = _place(api, repo_id, repo_type)
    return Pushed(info.pr_url or place, info.oid, target, is_private)


def check_token(api) -> str:
    """The name of the user to whom the token belongs. An error where there is none, or where it may only read."""
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled

    try:
        user = api.whoami()
    except LocalTokenNotFoundError as error:
        raise ValueError(
            "There is no token for the Hub. Log in with `hf auth login`, or put a token that may write into HF_TOKEN."
        ) from error
    except OfflineModeIsEnabled as error:
        raise ValueError(
            "HF_HUB_OFFLINE is set, so nothing can be sent. Unset it; with --dry_run nothing needs to be."
        ) from error
    except HTTPError as error:
        if _status(error) == 401:
            raise ValueError(
                "The Hub does not know the token: it is wrong, or no longer valid. Log in with `hf auth login`, or put "
                "another into HF_TOKEN, which comes first."
            ) from error
        raise OSError(f"The Hub at {api.endpoint} could not be asked who you are ({_first_line(error)}).") from error
    if ((user.get("auth") or {}).get("accessToken") or {}).get("role") == "read":
        raise ValueError(
            f"The token of {user['name']!r} may only read. Make one that may write at {api.endpoint}/settings/tokens, "
            "and log in with it or put it into HF_TOKEN."
        )
    return user["name"]


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(f"`repo_id` is {repo_id!r}, which cannot be an id on the Hub: {error}") from error
    if "/" not in repo_id:
        raise ValueError(f"`repo_id` is {repo_id!r}, but needs an owner: OWNER/{repo_id}.")


def check_target(repo_id: str, create_pr: bool, revision: str | None) -> None:
    _check_repo_id(repo_id)
    if create_pr and revision not in (None, "main"):
        raise ValueError(
            f"`create_pr` is True and `revision` is {revision!r}, but a pull request is opened against main. Drop one; "
            "refs/pr/N alone goes on with pull request N."
        )


def _place(api, repo_id: str, repo_type: str) -> str:
    return f"{api.endpoint}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"


def _prepare(api, repo_id: str, repo_type: str, private: bool | None, create_pr: bool, revision: str | None) -> bool:
    """The repository, made where it is not there. Returns whether it is private."""
    from huggingface_hub.errors import HTTPError, RepositoryNotFoundError

    try:
        try:
            found = api.repo_info(repo_id, repo_type=repo_type).private
        except RepositoryNotFoundError as error:
            if create_pr:
                raise ValueError(
                    f"`repo_id` is {repo_id!r}, which does not exist or may not be seen with this token, so no pull "
                    "request can be opened. Push without create_pr to make it."
                ) from error
            found = private is not False
            api.create_repo(repo_id, repo_type=repo_type, private=found, exist_ok=True)
        if private and not found:
            raise ValueError(
                f"`private` is True, but {repo_id!r} exists and is public. Make it private in its settings at "
                f"{_place(api, repo_id, repo_type)}/settings, or leave `private` out to send it to everybody."
            )
        if revision not in (None, "main") and not revision.startswith("refs/"):
            api.create_branch(repo_id, repo_type=repo_type, branch=revision, exist_ok=True)
    except HTTPError as error:
        raise _explained(error, repo_id) from error
    return bool(found)


def _send(api, plan: Plan, *, repo_id: str, repo_type: str, **options):
    from huggingface_hub.errors import HTTPError

    try:
        info = api.upload_folder(
            repo_id=repo_id,
            repo_type=repo_type,
            allow_patterns=[glob.escape(name) for name in plan.files],
            delete_patterns=list(STALE[plan.kind]),
            **options,
        )
        arrived = set(api.list_repo_files(repo_id, repo_type=repo_type, revision=info.oid))
    except ValueError as error:  # what the Hub says of the card
        raise ValueError(f"The Hub refuses the folder: {error}") from error
    except (HTTPError, RuntimeError) as error:
        raise _explained(error, repo_id) from error
    if options["create_pr"] and info.pr_url is None:
        raise ValueError(f"{repo_id!r} has all of this already, so there is nothing to propose.")
    if missing := sorted(set(plan.files) - arrived):
        raise ValueError(
            f"{missing} did not arrive in {repo_id!r}: a .gitignore there keeps them out. Remove it, and push again."
        )
    return info


def _explained(error: Exception, repo_id: str) -> Exception:
    status = _status(error) or _status(error.__cause__)
    if status in (401, 403):
        return ValueError(
            f"The token may not write to {repo_id!r} (HTTP {status}). Take a token that may, or another owner, or ask "
            "with --create_pr."
        )
    if status == 404:
        return ValueError(f"The Hub does not find {repo_id!r} or its revision ({_first_line(error)}).")
    cause = f": {_first_line(error.__cause__)}" if error.__cause__ else ""
    return OSError(f"The upload to {repo_id!r} stopped ({_first_line(error)}{cause}). {RUN_AGAIN}")


def _status(error: BaseException | None) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
