"""Chromium without a window, driven through its own pipe (the DevTools protocol).

It needs no driver, no package and no port.
"""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from itertools import count

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for path in map(shutil.which, NAMES) if path), None)
# --no-sandbox: tests run as root in containers, where Chromium's sandbox cannot
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-background-networking",
    "about:blank",
)


class Browser:
    """One page. Use as a context manager."""

    def __init__(self, profile, width=1280, height=900):
        self.profile = profile
        self.size = (width, height)
        self.numbers = count(1)
        self.rest = b""
        self.events = []
        self.session = None

    def __enter__(self):
        read_here, write_there = self.pipe()
        read_there, write_here = self.pipe()
        command = f'exec "$@" 3<&{read_there} 4>&{write_there}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, "bash", CHROMIUM, f"--user-data-dir={self.profile}", *FLAGS],
            pass_fds=(read_there, write_there),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_there)
        os.close(write_there)
        self.reading = read_here
        self.writing = write_here
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.resize(*self.size)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.reading)
        os.close(self.writing)

    @staticmethod
    def pipe():
        """Two ends above 9, so that they are not the 3 and 4 that Chromium listens to."""
        ends = os.pipe()
        moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
        for end in ends:
            os.close(end)
        return moved

    def call(self, method, seconds=60, **parameters):
        """Result of a command of the protocol.

        Everything else that arrives meanwhile goes to `events`.
        """
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writing, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + seconds
        while True:
            answer = self.receive(end)
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def receive(self, end):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.reading], [], [], max(0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            content = os.read(self.reading, 2**20)
            assert content, "Chromium has ended"
            self.rest += content
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def run(self, script):
        """Value of a JavaScript expression; a promise is awaited."""
        result = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, condition, seconds=60):
        """Until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            if time.monotonic() >= end:
                text = self.run("document.body.innerText")
                raise AssertionError(f"never true: {condition}; the page says: {text}")
            time.sleep(0.1)

    def open(self, address):
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete'")

    def choose_files(self, selector, *paths):
        node = self.call(
            "Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})"
        )
        self.call(
            "DOM.setFileInputFiles",
            files=[os.fspath(path) for path in paths],
            objectId=node["result"]["objectId"],
        )

    def press(self, key, code=0, text=""):
        facts = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        typed = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **facts, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **facts)

    def resize(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def requested(self):
        """Addresses of everything that the page has asked the network for."""
        addresses = []
        for event in self.events:
            if event.get("method") == "Network.requestWillBeSent":
                addresses.append(event["params"]["request"]["url"])
        return addresses

    def complaints(self):
        """Errors that the page or the browser reported."""
        return [event["params"] for event in self.events if is_complaint(event)]


def is_complaint(event):
    """Whether an event is an exception of the page or an error in the browser's log."""
    if event.get("method") == "Runtime.exceptionThrown":
        return True
    if event.get("method") != "Log.entryAdded":
        return False
    return event["params"]["entry"]["level"] == "error"
