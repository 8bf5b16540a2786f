"""Callers that never stop asking, and what became of each request."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

GOOD = {"amount": 100.0, "balance": None, "count": 3, "kind": "a"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. status: 0 when no answer came; why: what came instead. at, seconds: began, took."""

    at: float
    seconds: float
    status: int
    version: int = 0
    why: str = ""


@dataclass
class Callers:
    """Threads with a connection each, one request after the other."""

    url: str
    asked: list[Asked] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def _call(self, path: str, pause_s: float, body: bytes) -> None:
        with httpx.Client(base_url=self.url, timeout=30) as client:
            while not self._stop.wait(pause_s):
                began = time.monotonic()
                try:
                    answer = client.post(path, content=body, headers={"content-type": "application/json"})
                except httpx.HTTPError as error:
                    why = f"{type(error).__name__}: {error}"
                    self.asked.append(Asked(began, time.monotonic() - began, 0, why=why))
                    continue
                version = int(answer.headers.get("x-zaphod-version", 0))
                why = "" if answer.status_code == 200 else f"{answer.status_code}: {answer.text[:100]}"
                self.asked.append(Asked(began, time.monotonic() - began, answer.status_code, version, why))

    @contextmanager
    def calling(self, path: str, *, num_callers: int, pause_s: float = 0.002, num_rows: int = 1) -> Iterator[Callers]:
        """Asks for as long as the block lasts. num_rows: in each request."""
        arguments = (path, pause_s, json.dumps({"rows": [GOOD] * num_rows}).encode())
        threads = [threading.Thread(target=self._call, args=arguments, daemon=True) for _ in range(num_callers)]
        for thread in threads:
            thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def failures(self) -> Counter[str]:
        """What came instead of answers."""
        return Counter(each.why for each in self.asked if each.status != 200)

    def since(self, at: float) -> list[Asked]:
        return [each for each in self.asked if each.at >= at]
