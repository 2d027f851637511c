"""Results of the costly detectors, kept under a hash of what went in: they are computed once for the same images."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from runcard.fileio import exclusive_lock, write_text
from runcard.runs.environment import code_hash

T = TypeVar("T")
WAITING = "audit: another run audits the same data, waiting for it"
CODE = ("audit/detectors", "transforms.py")  # what a detector's result depends on, beside its input


def remember(folder: Path | None, name: str, kind: Any, compute: Callable[[], T], *inputs: Any) -> T:
    """Return compute(), or what it returned for the same inputs before; folder None keeps nothing.

    name begins the file's name, kind is the type of the result, of which pydantic makes JSON; inputs are arrays and
    plain values.
    """
    if folder is None:
        return compute()
    key = hashlib.sha256(code_hash(CODE).encode())
    for value in inputs:
        if isinstance(value, np.ndarray):
            key.update(f"{value.dtype} {value.shape} ".encode())
            key.update(np.ascontiguousarray(value).data)
        else:
            key.update(json.dumps(value, sort_keys=True, default=str).encode())
    adapter = TypeAdapter[T](kind)
    path = folder / f"{name}-{key.hexdigest()[:32]}.json"
    with exclusive_lock(path, "audit.cache_dir", "Choose another folder.", lambda: print(WAITING, flush=True)):
        try:
            return adapter.validate_json(path.read_bytes())
        except (OSError, ValidationError):  # none, or none that can be read
            result = compute()
            write_text(path, adapter.dump_json(result, indent=1).decode())
            return result
