"""The machine that trains: device, precision, processes and threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from foretell.errors import ParameterError

if TYPE_CHECKING:
    from lightning.fabric import Fabric

PRECISIONS = {
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-true": torch.bfloat16,
    "bf16-mixed": None,
}


_FABRICS: dict[tuple[str, str, str], Fabric] = {}


def make_fabric(device: str, devices: int, precision: str) -> Fabric:
    """The Fabric for a device (``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``)."""
    if precision not in PRECISIONS:
        raise ParameterError(
            f"unknown precision {precision!r}: one of {', '.join(PRECISIONS)} (half precision that "
            "needs loss scaling is left out: it would change what strategies see as a gradient)"
        )
    if isinstance(devices, bool) or not isinstance(devices, int) or devices < 1:
        raise ParameterError(f"devices must be a number of processes, at least 1, not {devices!r}")
    name, _, number = str(device).partition(":")
    if name not in ("auto", "cpu", "cuda", "mps") or (number and not number.isdigit()):
        raise ParameterError(f"unknown device {device!r}: one of auto, cpu, cuda, cuda:0, mps")
    if name == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device 'cuda' was asked for, but torch sees no CUDA device here")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ParameterError("device 'mps' was asked for, but torch sees none here")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if number and devices > 1:
        raise ParameterError(f"device {device!r} names one device, devices={devices} asks for more")
    # Here, as it is heavy and whoever only asks a model has no use for it.
    from lightning.fabric import Fabric

    chosen: list[int] | int = [int(number)] if number and name == "cuda" else devices
    # Processes are spawned: forking after threads have been started can hang.
    strategy = "ddp_spawn" if devices > 1 else "auto"
    arguments: dict[str, Any] = {"strategy": strategy, "precision": precision}
    if devices > 1:
        return Fabric(accelerator=name, devices=chosen, **arguments)
    # A Fabric looks through all installed packages for callbacks, which costs more than a small
    # update of an online learner. In one process it holds no state, so that one serves all runs.
    key = (name, number, precision)
    if key not in _FABRICS:
        _FABRICS[key] = Fabric(accelerator=name, devices=chosen, **arguments)
    return _FABRICS[key]


def all_sum(fabric: Fabric, tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes."""
    total = fabric.all_reduce(tensor, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def useful_threads() -> int:
    """Physical cores that this process may use: more threads than that slow small models down."""
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    cores = set()
    for cpu in allowed:
        topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        try:
            package = (topology / "physical_package_id").read_text().strip()
            cores.add((package, (topology / "core_id").read_text().strip()))
        except OSError:
            cores.add(("", str(cpu)))
    return max(1, min(len(cores), _quota() or len(cores)))


def _quota() -> int | None:
    """Whole processors that a container's limit grants; None without a limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, int(int(limit) / int(period)))
    except (OSError, ValueError):
        return None


@contextmanager
def use_threads(threads: int | None, processes: int = 1) -> Iterator[None]:
    """Sets torch's threads and restores the caller's number afterwards.

    None takes :func:`useful_threads`, shared by ``processes``, and never more than the caller has
    set.
    """
    before = torch.get_num_threads()
    if threads is None:
        threads = max(1, min(before, useful_threads() // processes))
    elif isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise ParameterError(f"threads must be a whole number, at least 1, not {threads!r}")
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
