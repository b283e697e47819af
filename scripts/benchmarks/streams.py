"""Streamed answers, read as they come: when each token was told, and what all of them say."""

import contextlib
import json
import threading
import time

from .command import Failure

# Generous: it only ends what will never end.
DEADLINE_SECONDS = 300


class Stream:
    """One request; whoever reads it is its only writer."""

    def __init__(self, gateway, request):
        self.gateway = gateway
        self.path, self.body = request
        self.asked = None
        self.told = []  # when each piece of text came
        self.text = ""
        self.tokens = self.prompt_tokens = 0
        self.runs = True
        self.failure = None
        self.left = False

    def read(self):
        """Until its end, or until somebody leaves it."""
        try:
            self.asked = time.perf_counter()
            body = {**self.body, "stream": True, "stream_options": {"include_usage": True}}
            with self.gateway.answer(self.path, body) as answer:
                for line in answer:
                    if self.left:
                        return
                    self.take(line)
        finally:
            self.runs = False
        if not (self.told and self.tokens):
            raise Failure(f"{self.path}: the stream ended without an answer")

    def take(self, line):
        now = time.perf_counter()
        data = line.decode().strip().removeprefix("data: ")
        if not data or data == "[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise Failure(f"{self.path}: {event['error'].get('message', data)}")
        if usage := event.get("usage"):
            self.tokens, self.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
        for choice in event["choices"]:
            if text := choice.get("text") or choice.get("delta", {}).get("content"):
                self.text += text
                self.told.append(now)

    def leave(self):
        """Its reader hangs up at the next token."""
        self.left = True


@contextlib.contextmanager
def together(streams):
    """Reads the streams while the block runs, and waits for their ends after it."""
    threads = [threading.Thread(target=read_or_note, args=(each,), daemon=True) for each in streams]
    for thread in threads:
        thread.start()
    try:
        yield
    except BaseException:
        for stream in streams:
            stream.leave()
        raise
    finally:
        for thread in threads:
            thread.join(DEADLINE_SECONDS)
    for stream in streams:
        if stream.failure:
            raise stream.failure


def read_or_note(stream):
    try:
        stream.read()
    except (Failure, OSError, ValueError) as failure:
        stream.failure = failure


def until_told(streams, count):
    """Waits until every stream has told so many tokens."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not all(len(stream.told) >= count for stream in streams):
        if failed := next((stream.failure for stream in streams if stream.failure), None):
            raise failed
        if not all(stream.runs for stream in streams) or time.monotonic() > deadline:
            raise Failure("a stream ended before all ran")
        time.sleep(0.002)
