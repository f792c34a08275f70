"""A headless Chromium, asked through the DevTools protocol's pipe: no driver, no library.

https://chromedevtools.github.io/devtools-protocol/ describes the methods. Messages are JSON, each
ended by a zero byte; the browser reads them from its descriptor 3 and answers on 4.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from select import select
from typing import Any

NAME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
_PATIENCE_S = 60.0


class Browser:
    """One page. ``events`` holds every message that answers no question, oldest first."""

    def __init__(self, write: int, read: int) -> None:
        self.events: list[dict[str, Any]] = []
        self._write, self._read = write, read
        self._rest = b""
        self._asked = 0
        self._session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result; raises RuntimeError for an error."""
        self._asked += 1
        message = {"id": self._asked, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._asked:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def open(self, page: Path, width: int, height: int = 900, dark: bool = False) -> None:
        """Show a file in a window of this width and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.ask("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        found = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def list_errors(self) -> list[str]:
        """What the console shows, and uncaught exceptions, since the page was opened."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def list_requests(self) -> list[str]:
        """The addresses that the page asked for, itself and what it holds apart."""
        sent = [e["params"] for e in self.events if e["method"] == "Network.requestWillBeSent"]
        urls = [one["request"]["url"] for one in sent if one["type"] != "Document"]
        return [url for url in urls if not url.startswith("data:")]

    def take_picture(self, target: Path) -> None:
        """The whole page as a PNG."""
        found = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        target.write_bytes(base64.b64decode(found["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select([self._read], [], [], _PATIENCE_S)[0]:
                raise TimeoutError(f"Chromium said nothing for {_PATIENCE_S:.0f} s")
            received = os.read(self._read, 1 << 20)
            if not received:
                raise RuntimeError("Chromium has ended")
            self._rest += received
        message, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser with its profile in an empty folder, ended afterwards."""
    our_read, their_write = os.pipe()
    their_read, our_write = os.pipe()
    arguments = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
        *("--hide-scrollbars", "--remote-debugging-pipe", "--disable-background-networking"),
        f"--user-data-dir={profile}",
    ]
    # A shell puts the pipes where Chromium looks for them, and keeps no other descriptor open.
    script = f'exec "$0" "$@" 3<&{their_read} 4>&{their_write}'
    process = subprocess.Popen(
        ["bash", "-c", script, NAME, *arguments],
        pass_fds=(their_read, their_write),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_read)
    os.close(their_write)
    try:
        yield Browser(our_write, our_read)
    finally:
        process.terminate()
        process.wait(timeout=30)
        os.close(our_read)
        os.close(our_write)
