"""What goes to the Hub: huggingface_hub's own client against a stand-in for the Hub on this machine."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from huggingface_hub import constants

from hf_metis_home.cli import main
from hf_metis_home.publishing import checks, plan_push, push_model
from hf_metis_home.publishing.push_files import files_to_send

from ..modeling.test_remote_code import CODE_FILES
from .hub_server import HubServer, environment


COMPLETE = CODE_FILES | {
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors.index.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json",
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    """Without the process that loads the folder, which takes seconds and has tests of its own."""
    monkeypatch.setattr(checks, "load_isolated", lambda *_: "not loaded in this test")


def push(folder, *words: str, repo_id: str = "me/hybrid") -> int:
    return main(["push", "--model_name_or_path", str(folder), "--repo_id", repo_id, *words])


def content(folder) -> dict[str, bytes]:
    """Path to bytes of what belongs into the repository."""
    return {name: (folder / name).read_bytes() for name in files_to_send(folder)}


def test_a_complete_private_repository(folder, hub, quick, capsys):
    assert push(folder) == 0
    repository = hub.repositories["me/hybrid"]
    assert repository.private and repository.files() == content(folder)
    assert COMPLETE <= repository.files().keys() and len(hub.objects) > 2
    commit = repository.refs["main"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"{hub.url}/me/hybrid (private)" in last
    assert f'AutoModelForImageTextToText.from_pretrained("me/hybrid", revision="{commit}"' in last

    assert push(folder) == 0  # nothing has changed: no commit, and nothing is sent
    assert repository.refs["main"] == commit and hub.count("PUT", "/lfs/") == len(hub.objects)
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nMore words.\n")
    assert push(folder) == 0
    assert repository.files() == content(folder) and hub.count("PUT", "/lfs/") == len(hub.objects)


def test_what_does_not_belong_stays_here(folder, hub, quick, capsys):
    extra = {
        "training_args.bin": "a pickle", "optimizer.pt": "a pickle", "notes.tmp": "unfinished", ".secret": "hidden",
        "run.json": "of a training run", "checkpoint-2/model.safetensors": "of a training run",
        "runs/now/events.out": "of a training run", "adapter_model.safetensors": "does not load",
        "rows.parquet": "not part", ".git/config": "hidden", "notes.txt": "not part",
    }  # fmt: skip
    belongs = ("LICENSE", "picture.png", ".eval_results/sums.yaml")
    for name in (*extra, *belongs):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("[]")
    assert push(folder) == 0
    printed = capsys.readouterr().out
    sent = hub.repositories["me/hybrid"].files().keys()
    assert sent.isdisjoint(extra) and set(belongs) <= sent
    for name, reason in extra.items():
        top = name if name.count("/") == 0 else name.split("/")[0] + "/"
        assert any(line.startswith(f"  {top}: ") and reason in line for line in printed.splitlines()), name


@pytest.mark.parametrize(
    ("change", "sent"),
    [
        ({}, False),  # it was made from a folder
        ({"local_sources": []}, True),
        ({"local_sources": [], "command": "metis-home upcycle --output_dir /home/me/x"}, False),
        ({"local_sources": [], "command": "metis-home upcycle --output_dir=~/x"}, False),
        ({"local_sources": [], "command": "metis-home upcycle --output_dir '/home/me/my models/x'"}, False),
    ],
)
def test_records_with_folders_of_this_machine_stay_here(folder, quick, change, sent):
    record = json.loads((folder / "upcycle.json").read_text())
    plain = {**record, "model_name_or_path": "Qwen/x", "command": "metis-home upcycle --output_dir runs/x"}
    (folder / "upcycle.json").write_text(json.dumps({**plain, **change} if change else record))
    plan = plan_push(folder, "me/hybrid")
    assert ("upcycle.json" in plan.files) is sent and ("upcycle.json" in plan.left_out) is not sent


def test_dry_run_needs_neither_network_nor_token(folder, monkeypatch, quick, capsys):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert constants.HF_HUB_OFFLINE and push(folder, "--dry_run") == 0
    printed = capsys.readouterr().out
    size = (folder / "config.json").stat().st_size
    assert f"{size / 1000:.1f} kB" in next(line for line in printed.splitlines() if line.startswith("  config.json "))
    for check in ("configuration", "tensors", "code", "processor", "card", "license", "example", "isolated load"):
        assert f"✓ {check}: " in printed
    assert "✗" not in printed and "Nothing was uploaded." in printed.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_failed_check_sends_nothing(folder, hub, quick, capsys):
    (folder / "chat_template.jinja").unlink()
    for words in ([], ["--dry_run"]):
        assert push(folder, *words) == 1
        printed = capsys.readouterr().out
        assert "✗ processor: " in printed and "Nothing was uploaded." in printed.splitlines()[-1]
    with pytest.raises(ValueError, match="checks failed, so nothing was uploaded:\n- processor: The processor"):
        push_model(folder, "me/hybrid")
    assert hub.repositories == {} and hub.count("POST", "") == 0


def test_pull_requests(folder, hub, quick, capsys):
    assert push(folder, "--create_pr") == 2
    assert "does not exist or is not visible" in capsys.readouterr().err and hub.repositories == {}
    assert push(folder) == 0
    commit = hub.repositories["me/hybrid"].refs["main"]
    with (folder / "README.md").open("a") as file:
        file.write("\nProposed.\n")
    assert push(folder, "--create_pr") == 0
    repository = hub.repositories["me/hybrid"]
    assert repository.refs["main"] == commit and repository.files("refs/pr/1") == content(folder)
    assert f"{hub.url}/me/hybrid/discussions/1 (private)" in capsys.readouterr().out.splitlines()[-1]
    with (folder / "README.md").open("a") as file:
        file.write("\nAnd more.\n")
    assert push(folder, "--revision", "refs/pr/1") == 0  # goes on with it
    assert repository.files("refs/pr/1") == content(folder) and len(repository.pull_requests) == 1
    assert push(folder, "--create_pr", "--revision", "second") == 2
    assert "pass only `revision` refs/pr/N" in capsys.readouterr().err


def test_pull_request_through_the_pipeline_of_hf_xet(folder, hub, quick, monkeypatch):
    """The client's other way to commit a folder, as far as it goes without a xet server: every file a plain one."""
    pytest.importorskip("hf_xet")
    assert push(folder) == 0
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(hub, "uses_lfs", False)
    with (folder / "README.md").open("a") as file:
        file.write("\nProposed.\n")
    assert push(folder, "--create_pr") == 0
    repository = hub.repositories["me/hybrid"]
    assert repository.files("refs/pr/1") == content(folder) != repository.files()


def test_branches_and_visibility(folder, hub, quick, capsys):
    assert push(folder, "--private", "false", "--revision", "second") == 0
    repository = hub.repositories["me/hybrid"]
    assert not repository.private and "(public)" in capsys.readouterr().out
    assert repository.files("second") == content(folder) and repository.files() == {}
    assert push(folder, "--private") == 2
    assert "exists and is public" in capsys.readouterr().err and repository.files() == {}
    assert push(folder) == 0  # says nothing of it, so it stays public
    assert "(public)" in capsys.readouterr().out and not repository.private


def test_files_of_an_earlier_push_go(folder, hub, quick):
    assert push(folder) == 0
    repository = hub.repositories["me/hybrid"]
    theirs = {"model.safetensors": b"old", "model-00009-of-00009.safetensors": b"old", "old_metis_home.py": b"old"}
    repository.commit("main", {**repository.files(), **theirs, "notes.md": b"theirs"})
    assert push(folder) == 0
    assert repository.files() == {**content(folder), "notes.md": b"theirs"}


def test_what_the_hub_keeps_out_is_noticed(folder, hub, quick, capsys):
    hub.ignored.add("config.json")
    assert push(folder) == 2
    assert "['config.json'] did not arrive" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (
            None,
            "There is no token for the Hub. Log in with `hf auth login`, or set HF_TOKEN to a token with write access.",
        ),
        ("hf_wrong", "The Hub rejects the token: it is wrong or has expired."),
        ("hf_read", "The token of 'me' is read-only."),
    ],
)
def test_tokens(folder, hub, monkeypatch, capsys, token, message):
    monkeypatch.delenv("HF_TOKEN") if token is None else monkeypatch.setenv("HF_TOKEN", token)
    assert push(folder) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.out == "" and "hf_" not in printed.err
    assert hub.repositories == {} and {method for method, _ in hub.requests} <= {"GET"}


def test_refusals(folder, hub, quick, monkeypatch, capsys):
    for repo_id, message in (
        ("hybrid", "needs an owner: OWNER/hybrid"),
        ("a/b/c", "cannot be an id on the Hub"),
        ("other/hybrid", "The token cannot write to 'other/hybrid' (HTTP 403)"),
    ):
        assert push(folder, repo_id=repo_id) == 2
        assert message in capsys.readouterr().err
    assert push(folder.parent / "absent") == 2
    assert "which is not a local folder" in capsys.readouterr().err
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text(text.replace("license: apache-2.0", "license: my-own"))
    assert push(folder) == 2
    assert 'The Hub rejects the folder: Invalid metadata in README.md.\n- "license" must be' in capsys.readouterr().err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert push(folder) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert all(not repository.files() for repository in hub.repositories.values())


def test_a_hub_that_is_not_there(folder, hub, monkeypatch, capsys):
    with HubServer() as other:
        url = other.url
    monkeypatch.setattr(constants, "ENDPOINT", url)
    assert push(folder) == 2
    assert f"The Hub at {url} did not answer (ConnectError" in capsys.readouterr().err


def test_an_upload_that_broke_goes_on(folder, hub, quick, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its own attempts
    lock, first = threading.Lock(), []

    def two_alone(oid: str) -> bool:
        with lock:
            if oid not in first and len(first) < 2:
                first.append(oid)
            return oid in first

    hub.on_put = two_alone
    assert push(folder) == 2
    message = capsys.readouterr().err
    assert "The upload to 'me/hybrid' stopped" in message and "Run the same command again" in message
    repository = hub.repositories["me/hybrid"]
    assert repository.files() == {} and len(hub.objects) == 2
    kept = set(hub.objects)
    hub.requests.clear()
    hub.on_put = lambda oid: True
    assert push(folder) == 0
    sent = {path.removeprefix("/lfs/") for method, path in hub.requests if method == "PUT"}
    assert sent and sent.isdisjoint(kept) and repository.files() == content(folder)


LOAD = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hf_metis_home":
            raise ImportError("the package is not importable here")
sys.meta_path.insert(0, Refuse())
from transformers import AutoModelForImageTextToText, AutoProcessor
repo, revision = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(repo, revision=revision, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(repo, revision=revision, trust_remote_code=True)
inputs = processor(text=["what color is the shape?"], return_tensors="pt")
print(type(model).__module__, model.generate(**inputs, max_new_tokens=2, thinking=True).shape[1])
"""


@pytest.mark.slow
def test_a_process_that_was_killed_goes_on_and_the_result_loads(folder, tmp_path):
    """All of it for real: processes of their own, the isolated load, and a model that is loaded from the repository."""
    command = [sys.executable, "-m", "hf_metis_home.cli.push", "--model_name_or_path", str(folder)]
    command += ["--repo_id", "me/hybrid"]
    arrived, release = threading.Event(), threading.Event()

    def stall(oid: str) -> bool:
        if len(server.objects) >= 2:
            arrived.set()
            release.wait(60)
            return False
        return True

    with HubServer(stall) as server:
        variables = environment(server, tmp_path / "home")
        process = subprocess.Popen(command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert arrived.wait(120)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        server.on_put = lambda oid: True
        release.set()
        time.sleep(0.2)
        assert server.repositories["me/hybrid"].files() == {}
        before = set(server.objects)
        server.requests.clear()
        done = subprocess.run(command, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "✓ isolated load: MetisHomeForConditionalGeneration and Qwen2_5_VLProcessor" in done.stdout
        sent = {path.removeprefix("/lfs/") for method, path in server.requests if method == "PUT"}
        assert sent.isdisjoint(before) and server.repositories["me/hybrid"].files() == content(folder)

        commit = server.repositories["me/hybrid"].refs["main"]
        assert f'revision="{commit}"' in done.stdout.splitlines()[-1]
        load = [sys.executable, "-I", "-c", LOAD, "me/hybrid", commit]
        loaded = subprocess.run(load, env=variables, capture_output=True, text=True, cwd=tmp_path)
        assert loaded.returncode == 0 and loaded.stdout.startswith("transformers_modules.me.hybrid."), loaded.stderr
        assert commit in loaded.stdout
