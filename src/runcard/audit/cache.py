"""Results of the costly detectors, kept under a hash of what went in: they are computed once for the same images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter

from runcard.caching import Cache
from runcard.runs.environment import code_hash, versions

T = TypeVar("T")
CODE = ("audit/detectors", "transforms.py")  # what a result depends on, beside its input and the libraries


def remember(cache: Cache | None, name: str, kind: Any, compute: Callable[[], T], *inputs: Any) -> T:
    """Return compute(), or what it returned for the same inputs before; cache None keeps nothing.

    name begins the file's name, kind is the type of the result, of which pydantic makes JSON; inputs are arrays and
    plain values.
    """
    if cache is None:
        return compute()
    key = hashlib.sha256(code_hash(CODE).encode())
    for value in (versions(), *inputs):
        if isinstance(value, np.ndarray):
            key.update(f"{value.dtype} {value.shape} ".encode())
            key.update(np.ascontiguousarray(value).data)
        else:
            key.update(json.dumps(value, sort_keys=True, default=str).encode())
    adapter = TypeAdapter[T](kind)

    def load(path: Path) -> T:
        content = path.read_bytes()
        result = adapter.validate_json(content)
        if adapter.dump_json(result, indent=1) != content:  # {}, say, in which a finding is missing, not absent
            raise ValueError(f"{path}: not as it was written")
        return result

    result, _ = cache.load_or_make(
        f"{name}-{key.hexdigest()[:32]}",
        load=load,
        make=compute,
        dump=lambda made: adapter.dump_json(made, indent=1),
        report=partial(print, flush=True),
    )
    return result
