"""`Service`: the champion of a registry, its store and its counters behind requests; what HTTP calls."""

import asyncio
import contextlib
import hashlib
import json
import random
import sqlite3
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import numpy as np

from qwafer._errors import InputError
from qwafer._records import to_json
from qwafer.serving.answering import Answering
from qwafer.serving.batching import Batcher
from qwafer.serving.options import ServeOptions
from qwafer.serving.registry import Change, ModelRegistry, Pointers
from qwafer.serving.review import NONE, Answers
from qwafer.serving.reviewed import below, look
from qwafer.serving.store import Store, Stored, packed_map, unpacked_map
from qwafer.serving.wire import Wafer, answer_json, parse_label, parse_text

POLL = 1.0
"""Seconds between two looks at the registry."""
PRUNE = 3600.0
"""Seconds between two deletions of old answers."""


class UnavailableError(Exception):
    """Something that will pass: no champion yet, or a store that cannot be written."""


class Service:
    """Answers and keeps them; see `http.application` for its routes.

    One thread computes, one writes, one loads versions. A request is answered by one version, the one that is in place
    when its turn comes, and is acknowledged when its answer is on disk.
    """

    def __init__(self, registry: ModelRegistry, store: Store, options: ServeOptions) -> None:
        from qwafer.serving.counters import Counters

        self.registry, self.store, self.options = registry, store, options
        self.counters = Counters()
        self.champion: Answering | None = None
        self.trial: Answering | None = None
        self.batcher = Batcher(lambda answering, maps: answering(maps), limit=options.queue)
        self._writer, self._loader = ThreadPoolExecutor(1, "qwafer-store"), ThreadPoolExecutor(1, "qwafer-load")
        self._pending: list[tuple[list[Stored], asyncio.Future[list[int]]]] = []
        self._writing = False
        self._pruned = 0.0
        self._refused = ""
        self._draw = random.Random()

    def load(self) -> None:
        """Load and compile the champion, and the version on trial."""
        if self.options.trial:
            if self.options.trial == self.registry.pointers().champion:
                raise InputError(f"`trial` = {self.options.trial} is the champion: try another version beside it")
            self.trial = Answering(self.registry.load(self.options.trial)).warm()
        self._reload(self.registry.pointers())

    async def run(self) -> None:
        """Follow the registry and the age of answers until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await loop.run_in_executor(self._loader, self._poll)
            await asyncio.sleep(POLL)

    def close(self) -> None:
        """Wait for the threads."""
        self.batcher.close()
        for pool in (self._writer, self._loader):
            pool.submit(self.store.close)
            pool.shutdown(wait=True)

    def _poll(self) -> None:
        try:
            self._reload(self.registry.pointers())
        except Exception as error:  # whatever it is, the version in place goes on, and the next one is waited for
            log("reload failed", error=str(error))
        if self.options.keep_days and time.time() - self._pruned > PRUNE:
            self._pruned = time.time()
            try:
                since = [_seconds(change) for change in self.registry.pointers().changes]
                self.store.remove_before(time.time() - 86400 * self.options.keep_days, since)
            except Exception as error:  # the next hour will do
                log("deleting old answers failed", error=str(error))

    def _reload(self, pointers: Pointers) -> None:
        version = pointers.champion
        if not version or (self.champion is not None and self.champion.version == version) or version == self._refused:
            return
        try:
            self.champion = Answering(self.registry.load(version)).warm()
        except Exception as error:
            if isinstance(error, OSError):  # which may pass
                raise
            self._refused = version
            raise
        self._refused = ""
        log("champion", version=version)

    def answering(self, wafer_id: str) -> Answering:
        """Return the version for a wafer: the one on trial for its share of ids, else the champion."""
        if self.champion is None:
            raise UnavailableError("no version has been promoted: python -m qwafer.registry promote")
        if self.trial is not None and wafer_id and on_trial(wafer_id, self.options.trial_share):
            return self.trial
        return self.champion

    async def classify(self, wafers: Sequence[Wafer], started: float) -> list[dict[str, Any]]:
        """Return the answers for the wafers of one request as JSON data, once they are on disk.

        `started` is the `time.perf_counter()` at which the request was whole.
        """
        found, answering, numbers, latency = await self._kept(wafers, started)
        answers = []
        for row, (wafer, number) in enumerate(zip(wafers, numbers, strict=True)):
            said = answer_json(wafer, found, row, answering.version)
            answers.append({"answer_id": number, **said, "inference_latency_ms": latency})
            maps = {"wafer_map": wafer.map.tolist()} if self.options.log_maps else {}
            log("answer", **{key: value for key, value in answers[-1].items() if key != "class_probabilities"}, **maps)
        return answers

    async def answered(self, wafers: Sequence[Wafer], started: float) -> tuple[Answers, Answering]:
        """Return the answers for the wafers of one request, once they are on disk, and the version that gave them."""
        found, answering, _, _ = await self._kept(wafers, started)
        return found, answering

    async def _kept(self, wafers: Sequence[Wafer], started: float) -> tuple[Answers, Answering, list[int], float]:
        """Return answers, version, numbers and milliseconds of a request whose answers are on disk."""
        answering = self.answering(wafers[0].wafer_id)
        found: Answers = await self.batcher.submit(answering, [wafer.map for wafer in wafers])
        rows = []
        texts, latency = found.predictions, 1000 * (time.perf_counter() - started)
        for row, wafer in enumerate(wafers):
            flagged = bool(found.review[row])
            audit = not flagged and self._draw.random() < self.options.audit
            kept = packed_map(wafer.map) if flagged or audit else None
            scores = float(found.confidence[row]), float(found.distance[row])
            p = found.probabilities[row].astype(np.float32).tobytes()
            ids = wafer.wafer_id, wafer.lot_id, answering.version, texts[row]
            size = wafer.map.shape
            rows.append(Stored(time.time(), *ids, *scores, flagged, audit, latency, p, size[0], size[1], kept))
        numbers = await self._write(rows)
        latency = round(1000 * (time.perf_counter() - started), 3)
        for item in rows:
            self.counters.answered(item.prediction, item.version, latency / 1000, flagged=item.flagged)
        return found, answering, numbers, latency

    async def feedback(self, form: dict[str, Any]) -> dict[str, Any]:
        """Keep what an engineer says of an answer, by `answer_id` or `wafer_id`; take the champion back where due."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._said, form)

    def _said(self, form: dict[str, Any]) -> dict[str, Any]:
        number, reviewer = form.get("answer_id"), parse_text("reviewer", form.get("reviewer", ""))
        wafer = None if form.get("wafer_id") is None else parse_text("wafer_id", form["wafer_id"])
        found = None
        if type(number) is int and 0 < number < 2**63:
            version = self.store.version_of(number, wafer)
            found = None if version is None else (number, version)
        elif number is None and wafer:
            lot = form.get("lot_id")
            found = self.store.find(wafer, None if lot is None else parse_text("lot_id", lot))
        else:
            raise InputError("give `answer_id`, the number of an answer, or `wafer_id`")
        if found is None:
            raise LookupError(f"there is no answer for {'answer_id' if number is not None else 'wafer_id'} here")
        number, version = found
        names, exclusive = self._labels(version)
        label = parse_label(form, names, NONE, exclusive=exclusive)
        try:
            self.store.say(number, label, reviewer)
        except sqlite3.Error as error:
            raise UnavailableError(f"the store cannot be written ({error})") from error
        self.counters.reviewed.inc()
        log("feedback", answer_id=number, version=version, label=label)
        return {"answer_id": number, "label": label, "model_version": version, **self._judged(version)}

    def _labels(self, version: str) -> tuple[Sequence[str], bool]:
        """Return the labels of a version, and whether they are exclusive."""
        for answering in (self.champion, self.trial):
            if answering is not None and answering.version == version:
                return answering.label_names, answering.release.review.exclusive
        found = self.registry.evidence(version)
        return found.label_names, found.exclusive

    def _judged(self, version: str) -> dict[str, Any]:
        """Take a champion back whose reviewed accuracy lies below the previous version's on its test split."""
        now = self.registry.pointers()
        if version != now.champion or not now.previous:
            return {}
        since = _seconds(now.changes[-1])
        number, what = look(self.store.n_reviewed(version, since)), f"reviews of {version} since {since:.0f}"
        if number is None or number in self.store.looks(what):
            return {}
        baseline = self.registry.evidence(now.previous).accuracy
        found, is_below = below(self.store.tally(version, since), baseline, number)
        self.store.keep_look(what, number, json.dumps(to_json(found)))
        if not is_below:
            return {}
        reason = (
            f"accuracy {found.estimate:.4f} (at most {found.high:.4f}) from {found.n_reviews} reviews is below "
            f"{baseline:.4f}, that of {now.previous} on its test split"
        )
        moved = self.registry.rollback(reason, action="automatic rollback", champion=version)
        log("automatic rollback", champion=moved.champion, reason=reason)
        return {"rolled_back_to": moved.champion, "reason": reason}

    def queue(self, limit: int) -> list[dict[str, Any]]:
        """Return the newest answers that wait for an engineer, with their maps."""
        try:
            waiting = self.store.queue(limit)
        finally:
            self.store.close()
        return [
            {
                "answer_id": number,
                "wafer_id": item.wafer,
                "lot_id": item.lot,
                "prediction": item.prediction,
                "confidence": round(item.confidence, 4),
                "model_version": item.version,
                "because": "flagged" if item.flagged else "drawn",
                "wafer_map": unpacked_map(item.map or b"", item.height, item.width).tolist(),
            }
            for number, item in waiting
        ]

    async def _write(self, rows: list[Stored]) -> list[int]:
        """Return the numbers of stored answers; those of all requests that wait are one transaction."""
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._pending.append((rows, future))
        self._flush()
        try:
            return await future
        except sqlite3.Error as error:
            raise UnavailableError(f"the store cannot be written ({error})") from error

    def _flush(self) -> None:
        if self._writing or not self._pending:
            return
        batch, self._pending, self._writing = self._pending, [], True
        every = [row for rows, _ in batch for row in rows]
        done = asyncio.get_running_loop().run_in_executor(self._writer, self.store.add, every)
        done.add_done_callback(lambda found: self._written(batch, found))

    def _written(self, batch: list[tuple[list[Stored], asyncio.Future[list[int]]]], done: Any) -> None:
        self._writing = False
        error, start = done.exception(), 0
        for rows, future in batch:
            if not future.done():
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(done.result()[start : start + len(rows)])
            start += len(rows)
        self._flush()


def _seconds(change: Change) -> float:
    """Return when the champion moved, seconds since 1970."""
    return datetime.fromisoformat(change.at).timestamp()


def on_trial(wafer_id: str, share: float) -> bool:
    """Return whether a wafer belongs to the share of ids that are on trial: the same wafer always does, or never."""
    drawn = int.from_bytes(hashlib.sha256(f"trial/{wafer_id}".encode(errors="replace")).digest()[:8], "big")
    return drawn < share * 2.0**64


def log(event: str, **said: Any) -> None:
    """Write one line of JSON to stderr; where that cannot be written, what was logged holds all the same."""
    with contextlib.suppress(OSError):
        sys.stderr.write(json.dumps({"at": round(time.time(), 3), "event": event, **said}) + "\n")
