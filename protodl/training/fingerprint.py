"""The name of a training: a hash of everything its outcome depends on."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def fingerprint(facts: Mapping[str, Any], sources: Iterable[str], root: Path) -> str:
    """Hash (16 hex digits) of plain facts and source files, by their paths relative to `root`."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for source in sorted(sources):
        digest.update(f"\0{source}\0".encode())
        digest.update((root / source).read_bytes())
    return digest.hexdigest()[:16]
