"""Debian's chromium, driven over WebDriver's HTTP protocol, without a package for it."""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path


PRESENT = bool(shutil.which("chromium") and shutil.which("chromedriver"))
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's id in WebDriver's answers


class Browser:
    """
    One window. Only addresses on this machine can be reached, so that a page that needs others is seen to.

    Args:
        profile (`Path`):
            New folder for what a browser keeps.
    """

    def __init__(self, profile: Path):
        self.driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        try:
            port = next(found[1] for line in self.driver.stdout if (found := re.search(r"on port (\d+)\.", line)))
            self.address = f"http://127.0.0.1:{port}"
            local = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"
            options = {"args": [*FLAGS, local, f"--user-data-dir={profile}"], "binary": shutil.which("chromium")}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"performance": "ALL", "browser": "ALL"}}
            session = self._send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self.address += f"/session/{session['sessionId']}"
            self._send("POST", "/timeouts", {"implicit": 30_000})  # how long an element may take to appear
        except BaseException:
            self.driver.kill()
            raise

    def close(self) -> None:
        try:
            self._send("DELETE", "")
        finally:
            self.driver.terminate()
            self.driver.wait(10)

    def open(self, url: str) -> None:
        self._send("POST", "/url", {"url": url})

    def run(self, script: str, *arguments):
        """What a JavaScript function body returns."""
        return self._send("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, script: str, seconds: float = 60):
        """The first value of an expression that counts as true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(f"return {script}")):
            assert time.monotonic() < deadline, f"never true: {script}\n{self.run('return document.body.innerText')}"
            time.sleep(0.05)
        return value

    def click(self, selector: str) -> None:
        self._send("POST", f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str, clear: bool = True) -> None:
        element = self._find(selector)
        if clear:
            self._send("POST", f"/element/{element}/clear", {})
        self._send("POST", f"/element/{element}/value", {"text": text})

    def upload(self, selector: str, path: Path) -> None:
        self._send("POST", f"/element/{self._find(selector)}/value", {"text": str(path)})

    def size(self, width: int, height: int, phone: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.devtools("Emulation.setDeviceMetricsOverride", **metrics)

    def dark(self, on: bool) -> None:
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> Path:
        """The whole page, not only what the window shows."""
        shown = self.devtools("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shown["data"]))
        return path

    def requests(self) -> list[str]:
        """Addresses that were asked for since the last call."""
        entries = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        sent = [entry["params"] for entry in entries if entry["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def complaints(self) -> list[str]:
        """Errors in the browser's console since the last call."""
        return [entry["message"] for entry in self._log("browser") if entry["level"] == "SEVERE"]

    def devtools(self, command: str, **parameters):
        return self._send("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def _log(self, kind: str) -> list[dict]:
        return self._send("POST", "/se/log", {"type": kind})

    def _find(self, selector: str) -> str:
        return self._send("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT]

    def _send(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=90) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path} {body}: {error.read().decode()[:2000]}") from None
