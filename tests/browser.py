"""Chromium without a window, for tests of pages: no port, no driver, two pipes.

with Browser(tmp_path) as browser:
    browser.open(page, width=390, dark=True)
    browser.run("document.documentElement.scrollWidth")
"""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND"),  # files only
)


def _high(end: int) -> int:
    """A pipe's end under a number that is neither 3 nor 4."""
    moved = fcntl.fcntl(end, fcntl.F_DUPFD, 10)
    os.close(end)
    return moved


class Browser:
    """One page of a Chromium of its own; `said`: what its console and its loader complained of."""

    def __init__(self, folder: Path):
        self.folder, self.said = folder / "chromium", []
        self.session, self.number, self.loaded = None, 0, False
        self.read = b""

    def __enter__(self):
        (read, out), (back, write) = os.pipe(), os.pipe()
        # chromium reads its file 3 and writes its file 4
        ends = f'exec 3<&{(theirs := _high(read))} 4>&{(ours := _high(write))}; exec "$@"'
        command = [*("bash", "-c", ends, "bash"), CHROMIUM, *QUIET]
        self.process = subprocess.Popen(
            [*command, f"--user-data-dir={self.folder}", "about:blank"],
            pass_fds=(theirs, ours),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs), os.close(ours)
        self.to, self.answers = os.fdopen(out, "wb"), os.fdopen(back, "rb")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.to.close(), self.answers.close()

    def ask(self, method: str, **parameters) -> dict:
        """One call of the DevTools protocol, and its result."""
        self.number += 1
        call = {"id": self.number, "method": method, "params": parameters}
        call |= {"sessionId": self.session} if self.session else {}
        self.to.write(json.dumps(call).encode() + b"\0")
        self.to.flush()
        while (message := self._next()).get("id") != self.number:
            pass
        assert "error" not in message, message
        return message["result"]

    def _next(self) -> dict:
        while b"\0" not in self.read:
            more = self.answers.read1()
            assert more, "chromium ended"
            self.read += more
        text, _, self.read = self.read.partition(b"\0")
        message = json.loads(text)
        if message.get("method") in (
            *("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"),
            "Network.loadingFailed",
        ):
            self.said.append(message["params"])
        self.loaded |= message.get("method") == "Page.loadEventFired"
        return message

    def open(self, path: Path, width: int, dark: bool = False, height: int = 900) -> None:
        """Show a file at a width, and wait until it is there."""
        if not self.session:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            found = self.ask("Target.attachToTarget", targetId=target, flatten=True)
            self.session = found["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.ask(f"{domain}.enable")
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.loaded = False
        self.ask("Page.navigate", url=path.resolve().as_uri())
        while not self.loaded:
            self._next()

    def run(self, script: str):
        """The value of an expression in the page."""
        found = self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """What is in view, as a PNG."""
        shot = self.ask("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(shot["data"]))
