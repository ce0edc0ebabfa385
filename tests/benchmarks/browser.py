"""A real Chromium without a window, driven over a pipe (Chrome DevTools Protocol); no library."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
LIMIT_S = 60.0

Scheme = Literal["light", "dark"]


def find() -> str | None:
    """Return the browser that ``$CHROMIUM`` or the PATH names."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class View:
    """What a browser made of a page."""

    said: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


class Browser:
    """One browser; a context manager, so that none outlives a test."""

    def __init__(self, program: str, profile: Path) -> None:
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # Out of the way of 3 and 4, on which Chromium listens and answers.
        self._in, self._out = _high(ours_in), _high(ours_out)
        given_in, given_out = _high(theirs_in), _high(theirs_out)
        command = [
            program,
            "--headless=new",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
            "--no-sandbox",  # root has none; the pages are our own
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--no-first-run",
            "--hide-scrollbars",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{given_in} 4>&{given_out}', *command],
            pass_fds=(given_in, given_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(given_in)
        os.close(given_out)
        self._buffer = b""
        self._count = 0
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    _session: str | None = None

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(self, file: Path, width: int, scheme: Scheme) -> View:
        """Load a file, that wide, light or dark; say what was printed and asked for."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self._call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self._events.clear()
        self._call("Page.navigate", url=file.resolve().as_uri())
        self._wait(lambda: any(e["method"] == "Page.loadEventFired" for e in self._events))
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        return self._view()

    def evaluate(self, expression: str) -> Any:
        """Run a line of JavaScript in the page, and return its value."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, file: Path) -> None:
        """Take a picture of the whole page, however long."""
        taken = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        file.write_bytes(base64.b64decode(taken["data"]))

    def _view(self) -> View:
        view = View()
        for event in self._events:
            method, told = event["method"], event["params"]
            if method == "Network.requestWillBeSent":
                view.requests.append(told["request"]["url"])
            elif method == "Log.entryAdded":
                view.said.append(told["entry"]["text"])
            elif method == "Runtime.consoleAPICalled":
                view.said.append(str(told["args"]))
            elif method == "Runtime.exceptionThrown":
                view.said.append(told["exceptionDetails"]["text"])
            elif method == "Page.javascriptDialogOpening":
                view.said.append(f"dialog: {told['message']}")
        return view

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answers: list[dict[str, Any]] = []

        def answered() -> bool:
            answers.extend(e for e in self._events if e.get("id") == self._count)
            return bool(answers)

        self._wait(answered)
        self._events = [e for e in self._events if "id" not in e]
        assert "error" not in answers[0], (method, answers[0]["error"])
        result: dict[str, Any] = answers[0]["result"]
        return result

    def _wait(self, done: Callable[[], bool]) -> None:
        until = time.monotonic() + LIMIT_S
        while not done():
            left = until - time.monotonic()
            ready, _, _ = select.select([self._in], [], [], max(left, 0))
            chunk = os.read(self._in, 1 << 16) if ready else b""
            if not chunk:
                raise TimeoutError(f"the browser ended, or took longer than {LIMIT_S:.0f} s")
            *whole, self._buffer = (self._buffer + chunk).split(b"\0")
            self._events += map(json.loads, whole)


def _high(descriptor: int) -> int:
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 20)
    os.close(descriptor)
    return moved
