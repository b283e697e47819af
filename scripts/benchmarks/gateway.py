"""A gateway to measure: one of its own in a temporary home, or one that runs."""

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from fetch import hearth_home

from .command import Failure, release_binary

# Generous: it only ends what will never end.
DEADLINE_SECONDS = 300


class Gateway:
    """Where a gateway listens, and what may be asked of it."""

    def __init__(self, address, home=None):
        self.address = address
        self.home = home

    def load(self, model):
        self.post("/api/generate", {"model": model, "keep_alive": -1})

    def unload(self, model):
        """Waits until no worker is left: for a gateway that serves this model alone."""
        self.post("/api/generate", {"model": model, "keep_alive": 0})
        deadline = time.monotonic() + DEADLINE_SECONDS
        while self.get_json("/api/ps")["models"]:
            if time.monotonic() > deadline:
                raise Failure("the worker does not go")
            time.sleep(0.02)

    def process(self):
        """The model's entry in /api/ps, as soon as its memory has been measured."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            models = self.get_json("/api/ps")["models"]
            if models and models[0]["size_resident"]:
                return models[0]
            if time.monotonic() > deadline:
                raise Failure("/api/ps never says how much memory the worker holds")
            time.sleep(0.02)

    def load_seconds(self):
        text = self.request("/metrics").decode()
        found = re.findall(r"^hearth_worker_load_seconds_(sum|count)\{.*\} (\S+)$", text, re.MULTILINE)
        return {"sum": 0.0, "count": 0.0} | {name: float(value) for name, value in found}

    def load_memory(self, model):
        """The most that a load of the model took, as the gateway keeps it for the next one."""
        try:
            return json.loads((self.home / "memory.json").read_text())[model]["load_memory"]
        except (OSError, KeyError):
            raise Failure(f"{self.home / 'memory.json'} says nothing of {model}") from None

    def get_json(self, path):
        return json.loads(self.request(path))

    def post(self, path, body):
        return json.loads(self.request(path, {**body, "stream": False}))

    def request(self, path, body=None):
        with self.answer(path, body) as answer:
            return answer.read()

    def answer(self, path, body=None):
        """The response with its body unread."""
        data = json.dumps(body).encode() if body else None
        headers = {"content-type": "application/json"}
        asked = urllib.request.Request(self.address + path, data, headers)
        try:
            return urllib.request.urlopen(asked, timeout=DEADLINE_SECONDS)
        except urllib.error.HTTPError as refusal:
            raise Failure(f"{path}: {refusal.code}: {refusal.read().decode().strip()}") from None
        except urllib.error.URLError as error:
            raise Failure(f"{self.address}: {error.reason}") from None


@contextlib.contextmanager
def gateway_with(models):
    """The release build on a free port, in a temporary home that has these models alone.

    `models` says for each name where the model lies.
    """
    binary = release_binary()
    with tempfile.TemporaryDirectory(prefix="hearth-bench-") as home:
        (Path(home) / "models").mkdir()
        for name, model in models.items():
            suffix = model.suffix if model.is_file() else ""
            (Path(home) / "models" / f"{name}{suffix}").symlink_to(model)
        (Path(home) / "runtime").symlink_to(hearth_home() / "runtime")
        environment = {**os.environ, "HEARTH_HOME": home, "HEARTH_HOST": "127.0.0.1:0"}
        log = open(Path(home) / "log", "w+")
        process = subprocess.Popen(
            [binary, "serve"], env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        )
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                process.wait(DEADLINE_SECONDS)
                log.seek(0)
                raise Failure(f"the gateway did not start: {log.read().strip()}")
            yield Gateway(found.group(), Path(home))
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            log.close()
