"""How much memory a process has used."""

from __future__ import annotations

import resource
import sys


def peak_memory_mib() -> float:
    """Largest resident memory of this process or one of its finished children so far, in MiB."""
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    largest = max(resource.getrusage(kind).ru_maxrss for kind in kinds)
    return largest / (1 << 20 if sys.platform == "darwin" else 1 << 10)
