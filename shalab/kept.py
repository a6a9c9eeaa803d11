"""Results that take seconds or minutes, kept in the cache folder until something they depend on changes."""

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

from shalab.corpus import cache_dir
from shalab.files import WriteError, as_json, json_safe, write_json, writing


def kept(kind: str, key: dict, make: Callable[[], Any], lasts: Callable[[Any], bool] = lambda value: True) -> Any:
    """What make() returned when it was last called for this key, as JSON has it; else calls it, and keeps the result.

    A file that is damaged is made again. Where nothing can be written, nothing is kept, nor is a value that `lasts`
    refuses.
    """
    key = json_safe(key)
    path = cache_dir() / kind / f"{_sha256(key)[:16]}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        there = json.loads(path.read_text(encoding="utf-8"))
        if there["key"] == key and there["sha256"] == _sha256([key, there["value"]]):
            return there["value"]
    value = json_safe(make())
    if not lasts(value):
        return value
    with contextlib.suppress(WriteError), writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"key": key, "value": value, "sha256": _sha256([key, value])})
    return value


def _sha256(content: Any) -> str:
    return hashlib.sha256(as_json(content).encode()).hexdigest()
