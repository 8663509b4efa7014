"""Results on disk as they come, so that a run that was killed goes on where it stopped."""

import contextlib
import json
from pathlib import Path


class WorkFile:
    """
    A file of JSON lines: the settings, then one line per piece of work with its results.

    A half-written last line, as a killed process leaves it, is cut off.

    Args:
        path (`str` or `Path`):
            Made where it does not exist.
        settings (`dict`):
            What the results depend on; JSON values.

    Raises:
        ValueError: the file was made with other settings (the message names them), is damaged, or in use.
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
        """Keep the results, JSON values, of a piece of work. What is there already stays."""
        if (group, index) not in self.entries:
            self.entries[group, index] = results
            self._write({"group": group, "index": index, "results": results})

    def done(self, group: str) -> set[int]:
        """The pieces of a group that have results."""
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
                raise ValueError(
                    f"{self.path} is in use: another run is writing the same output. Wait for it, or choose another "
                    "`output_dir`."
                ) from error

    def _read(self, settings: dict) -> dict[tuple[str, int], list]:
        raw = self.path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        lines = []
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                lines.append(json.loads(line))
            except ValueError as error:
                raise ValueError(
                    f"{self.path}, line {number}, is no JSON: the file is damaged. Cut it off before that line, or "
                    "remove it to begin anew."
                ) from error
        if not lines:
            self._write({"settings": settings})
            return {}
        before = lines[0].get("settings", {})
        if changed := [name for name in {**before, **settings} if before.get(name) != settings.get(name)]:
            raise ValueError(
                f"{self.path} holds results made with other settings: "
                + "; ".join(f"`{name}` was {before.get(name)!r} and is {settings.get(name)!r}" for name in changed)
                + ". Go on with those, choose another `output_dir`, or remove the file to begin anew."
            )
        return {(entry["group"], entry["index"]): entry["results"] for entry in lines[1:]}
