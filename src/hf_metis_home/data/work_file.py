"""Results saved as they come, so that a stopped run can continue."""

import contextlib
import json
from pathlib import Path


class WorkFile:
    """
    A file of JSON lines: first the settings, then the results, one line per item.

    An unfinished last line, from a process that was killed, is removed.

    Args:
        path (`str` or `Path`):
            Created if it does not exist.
        settings (`dict`):
            Everything that the results depend on, as JSON values.

    Raises:
        ValueError: the file is from a run with other settings (the message names them), damaged, or in use.
    """

    def __init__(self, path: str | Path, settings: dict):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+", encoding="utf-8", newline="\n")
        try:
            self._lock()
            self.entries = self._read(json.loads(json.dumps(settings)))
        except BaseException:
            self._file.close()
            raise

    def add(self, group: str, index: int, results: list) -> None:
        """Save the results of an item, as JSON values. Results that are there already are kept."""
        if (group, index) not in self.entries:
            self.entries[group, index] = results
            self._write({"group": group, "index": index, "results": results})

    def done(self, group: str) -> set[int]:
        """The items of a group that have results."""
        return {index for name, index in self.entries if name == group}

    def close(self) -> None:
        self._file.close()

    def _write(self, entry: dict) -> None:
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()

    def _lock(self) -> None:
        with contextlib.suppress(ImportError):  # not on every system
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                remedy = "Wait for it, or choose another `output_dir`."
                raise ValueError(f"{self.path} is in use: another run writes the same output. {remedy}") from error

    def _read(self, settings: dict) -> dict[tuple[str, int], list]:
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        lines = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                remedy = "Remove that line and all after it, or the whole file to start over."
                raise ValueError(f"{self.path} is damaged: line {number} is not JSON. {remedy}") from error
        if not lines:
            self._write({"settings": settings})
            return {}
        before = lines[0].get("settings", {})
        changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
        if changed:
            names = "; ".join(f"`{name}` was {before.get(name)!r} and is {settings.get(name)!r}" for name in changed)
            raise ValueError(
                f"{self.path} has results from a run with other settings: {names}. Use those settings to continue it, "
                "choose another `output_dir`, or remove the file to start over."
            )
        return {(entry["group"], entry["index"]): entry["results"] for entry in lines[1:]}
