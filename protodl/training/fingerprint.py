"""The name of a training: a hash of everything its outcome depends on."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def fingerprint(facts: Mapping[str, Any], sources: Iterable[Path]) -> str:
    """Hash (16 hex digits) of everything an outcome depends on: plain facts and source files."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in sorted(sources, key=lambda path: path.name):
        digest.update(f"\0{source.name}\0".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]
