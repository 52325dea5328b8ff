"""A judge: any endpoint that speaks OpenAI's chat protocol, asked to rate answers that no rule can.

What it said is kept, under its model and the whole request, so that the same is never asked twice; what could not be
had or read is missing, never a number. The key comes from the environment alone.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from csr_core.config import JudgeSettings
from csr_core.digests import digest_value
from csr_core.progress import Progress

KEYS = ("CSR_JUDGE_KEY", "OPENAI_API_KEY")  # environment variables, the first that is set
ATTEMPTS = 4  # of a request that was turned away for the moment, and of one whose answer cannot be read
AT_ONCE = 4
GIVE_UP = 8  # failures in a row after which no more is asked
SECONDS = 120.0

log = logging.getLogger(__name__)
Messages = tuple[tuple[str, str], ...]  # (role, text)


@dataclass(frozen=True)
class Request:
    """One question to the judge. `version` names the instructions, which are the same for many answers."""

    messages: Messages
    version: str
    temperature: float
    max_tokens: int

    @classmethod
    def of(cls, messages: Messages, fixed: Sequence[str], temperature: float, max_tokens: int) -> Request:
        """`fixed`: the texts that are instructions, and make the version."""
        return cls(messages, digest_value(list(fixed))[:12], temperature, max_tokens)


class _FailedError(Exception):
    """No judgement was to be had."""


def judge(
    settings: JudgeSettings,
    requests: Mapping[str, Request],
    read: Callable[[str], Any],
    kept: Path,
    name: str = "judge",
    wait: float = 1.0,
) -> list[dict[str, Any]]:
    """The judgements of `requests` (by the answer's key) that could be had, rows {key, model, answered_by,
    prompt_version, content, value}.

    read: content -> value, None where it cannot be read: then it is asked again, a little warmer. kept: file of earlier
    judgements, which are not asked for again. wait: seconds before the first repetition, twice as many before the next.
    """
    known = _load(kept)
    ids = {key: digest_value([settings.model, request.version, request.messages]) for key, request in requests.items()}
    todo = {key: request for key, request in requests.items() if ids[key] not in known}
    failed: dict[str, str] = {}
    if todo:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.open("a", encoding="utf-8") as file:
            file.write("\n")  # a killed run may have left half a line
            for key, made in _ask_all(settings, todo, read, failed, name, wait):
                known[ids[key]] = made
                file.write(json.dumps({"id": ids[key], **made}) + "\n")
                file.flush()
    if failed:
        key, reason = next(iter(failed.items()))
        told = "%s: %d of %d judgements are missing (%s: %s); `csr evaluate score` asks for them again"
        log.warning(told, name, len(failed), len(requests), key, reason)
    rows = []
    for key in requests:
        held = known.get(ids[key])
        if held is not None and (value := read(held["content"])) is not None:
            fields = {field: held[field] for field in ("model", "answered_by", "prompt_version", "content")}
            rows.append({"key": key, **fields, "value": value})
    return rows


def _load(kept: Path) -> dict[str, dict[str, Any]]:
    known = {}
    if kept.is_file():
        for line in kept.read_text("utf-8").splitlines():
            try:
                row = json.loads(line)
                known[row.pop("id")] = row
            except (ValueError, KeyError, AttributeError):
                continue  # an empty line, or half of one
    return known


def _ask_all(
    settings: JudgeSettings,
    todo: Mapping[str, Request],
    read: Callable[[str], Any],
    failed: dict[str, str],
    name: str,
    wait: float,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (key, judgement) as they come; the others are put into `failed` with the reason."""
    import httpx

    key = next((os.environ[variable] for variable in KEYS if os.environ.get(variable)), None)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    in_a_row = 0
    with (
        httpx.Client(timeout=SECONDS, headers=headers) as client,
        Progress(name, len(todo), "answers", counts=False) as bar,
    ):
        waiting = list(todo)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            while waiting:
                # Few at a time, so that one that answers nobody is not asked about everything.
                batch, waiting = waiting[:AT_ONCE], waiting[AT_ONCE:]
                if in_a_row >= GIVE_UP:
                    failed.update(dict.fromkeys(batch, "not asked: the judge failed too often in a row"))
                    continue
                futures = {pool.submit(_ask, client, settings, todo[one], read, wait): one for one in batch}
                for future in as_completed(futures):
                    bar.advance()
                    try:
                        made = future.result()
                    except _FailedError as error:
                        failed[futures[future]] = str(error)
                        in_a_row += 1
                        continue
                    in_a_row = 0
                    yield futures[future], made


def _ask(
    client: Any, settings: JudgeSettings, request: Request, read: Callable[[str], Any], wait: float
) -> dict[str, Any]:
    import httpx

    content = ""
    for attempt in range(ATTEMPTS):
        body = {
            "model": settings.model,
            "messages": [{"role": role, "content": text} for role, text in request.messages],
            "temperature": min(request.temperature + 0.5 * attempt * bool(content), 1.5),
            "max_tokens": request.max_tokens,
        }
        try:
            reply = client.post(settings.url.rstrip("/") + "/chat/completions", json=body)
            if reply.status_code == 429 or reply.status_code >= 500:
                reason = f"it answered {reply.status_code}"
            elif reply.status_code >= 400:
                # Its words are not repeated: some servers put the key they were given into them.
                told = f"; is one of {' and '.join(KEYS)} set?" if reply.status_code in (401, 403) else ""
                raise _FailedError(f"it refuses with {reply.status_code}{told}")
            else:
                given = reply.json()
                content = str(given["choices"][0]["message"]["content"])
                if read(content) is not None:
                    answered_by = str(given.get("model") or settings.model)
                    made = {"model": settings.model, "answered_by": answered_by, "content": content}
                    return {**made, "prompt_version": request.version}
                reason = f"its judgement cannot be read: {content[:80]!r}"
                continue
        except httpx.HTTPError as error:
            reason = f"it cannot be reached ({type(error).__name__})"
        except (ValueError, KeyError, IndexError, TypeError):
            reason = "its answer is not of the chat protocol"
        if attempt + 1 < ATTEMPTS:
            time.sleep(wait * 2**attempt)
    raise _FailedError(reason)
