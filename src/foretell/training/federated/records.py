"""Tensors as Flower's records, and back: only what is trained travels.

Frozen layers and integer buffers (step counters, vocabularies) are equal on the server and on
every client from the start, and stay where they are. Flower averages *every* array that it is
given, integer ones included, which is one more reason not to send them.
"""

from __future__ import annotations

import functools
import io
import math
import warnings
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, RecordDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from foretell.errors import TrainingError
from foretell.training.federated.flower import NUMPY


def travelling(learner: nn.Module) -> dict[str, Tensor]:
    """Tensors that travel, by name: trained parameters, and statistics that training moves.

    The latter are the running means and variances of normalisation layers that are not frozen.
    The tensors share memory with the learner. Tied parameters appear once.
    """
    found = {
        name: parameter.data
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad and parameter.is_floating_point()
    }
    if not found:
        raise TrainingError(
            f"{type(learner).__name__} has no floating-point parameter that is trained: nothing "
            "would travel"
        )
    for prefix, module in learner.named_modules():
        if not isinstance(module, _NormBase) or not module.track_running_stats:
            continue
        if any(p.requires_grad for p in module.parameters()) or not module.affine:
            for name, buffer in module.named_buffers(prefix, recurse=False):
                if buffer.is_floating_point():
                    found[name] = buffer
    return found


@functools.lru_cache(maxsize=4096)
def _header(dtype: np.dtype, shape: tuple[int, ...]) -> bytes:
    """What numpy's file format writes before the values, which is slow to make and to parse."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": dtype.str, "fortran_order": False, "shape": shape}
    )
    return buffer.getvalue()


def to_array(values: np.ndarray) -> Array:
    """An array as Flower's ``Array(values)`` serialises it, byte for byte."""
    header = _header(values.dtype, values.shape)
    return Array(str(values.dtype), values.shape, NUMPY, header + values.tobytes())


def to_numpy(array: Array) -> np.ndarray:
    """What an array holds; read-only where it shares the array's bytes.

    Raises:
        ValueError: bytes that are no array.
    """
    try:
        dtype = np.dtype(array.dtype)
        header = _header(dtype, tuple(array.shape))
    except (TypeError, ValueError):
        return array.numpy()
    size = dtype.itemsize * math.prod(array.shape)
    if len(array.data) == len(header) + size and array.data.startswith(header):
        return np.frombuffer(array.data, dtype, offset=len(header)).reshape(array.shape)
    return array.numpy()


def to_record(tensors: Mapping[str, Tensor | np.ndarray]) -> ArrayRecord:
    """Tensors as serialised arrays."""
    record = ArrayRecord()
    for name, tensor in tensors.items():
        array = tensor.detach().cpu().numpy() if isinstance(tensor, Tensor) else tensor
        record[name] = to_array(np.asarray(array))
    return record


def from_record(record: ArrayRecord) -> dict[str, Tensor]:
    """Serialised arrays as tensors of their own memory."""
    return {name: torch.from_numpy(to_numpy(array).copy()) for name, array in record.items()}


def load_record(tensors: Mapping[str, Tensor], record: ArrayRecord) -> None:
    """Copies arrays into tensors of the same names, in place.

    Raises:
        TrainingError: names or shapes that differ.
    """
    if problem := mismatch(record, tensors):
        raise TrainingError(f"the arrays of the server do not fit the learner: {problem}")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(to_numpy(record[name])))


def mismatch(record: ArrayRecord, expected: Mapping[str, Tensor] | ArrayRecord) -> str | None:
    """Why a record has not the names, shapes and kinds that are expected; None if it has."""
    missing, extra = set(expected) - set(record), set(record) - set(expected)
    if missing or extra:
        parts = [f"{len(missing)} missing ({sorted(missing)[0]})"] if missing else []
        parts += [f"{len(extra)} unknown ({sorted(extra)[0]})"] if extra else []
        return "arrays " + " and ".join(parts)
    for name, want in expected.items():
        if tuple(record[name].shape) != tuple(want.shape):
            return f"array {name!r} has shape {tuple(record[name].shape)}, not {tuple(want.shape)}"
        if not record[name].dtype.startswith(("float", "bfloat")):
            return f"array {name!r} is of {record[name].dtype}, not of floating-point numbers"
    return None


def serialised_bytes(contents: Iterable[RecordDict]) -> int:
    """Bytes of records as they are serialised: arrays with their headers, names, figures.

    Records that several messages share are measured once and counted for each.
    """
    known: dict[int, int] = {}
    total = 0
    for content in contents:
        for name, record in content.items():
            size = known.get(id(record))
            if size is None:
                size = known[id(record)] = record.count_bytes()
            total += size + len(name)
    return total
