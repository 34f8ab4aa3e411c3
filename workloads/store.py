"""Files written whole or not at all; contents have a name."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from workloads.errors import RunError

PART = ".part"  # the end of a file that is being written


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that `path` holds either the old or the new content. Raises RunError on a full disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RunError(f"{path}: cannot be written: {error.strerror}; free space or fix permissions, "
                       "then run the same command again") from None  # fmt: skip


def content_key(*parts: Any) -> str:
    """Twelve hex digits that name this content."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
