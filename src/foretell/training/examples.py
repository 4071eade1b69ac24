"""Examples to train on: numbered, and collated into batches on demand."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from foretell.errors import DataError


@runtime_checkable
class Examples(Protocol):
    """What :func:`foretell.training.fit` needs of data.

    Two optional attributes are looked at: ``sampling_weights`` ``(N,)``, to draw with replacement
    in proportion to them instead of going through permutations; and ``fingerprint``, a string that
    a resumed run must find unchanged.
    """

    def __len__(self) -> int:
        """Number of examples ``N``."""
        ...

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """Collates the examples ``indices`` ``(B,)`` into tensors, examples first.

        All randomness (augmentation, which forks) comes from ``rng``.
        """
        ...


class TensorExamples:
    """Examples that are already tensors.

    Args:
        tensors: either a dict of tensors or arrays ``(N, ...)``, or a sequence of ``N`` dicts, one
            an example, whose tensors may differ in the length of their first axis. These are
            padded to the longest of the batch, and ``mask`` ``(B, T)`` is true where a value is
            real. Keys whose values are scalars are stacked to ``(B,)``.
        pad_value: what stands in the padding (0 for integer and boolean tensors).
        sampling_weights: ``(N,)`` relative chances of being drawn; None for epochs.

    Raises:
        DataError: no example, lengths that differ between keys, or missing keys.
    """

    def __init__(
        self,
        tensors: Mapping[str, Tensor | np.ndarray] | Sequence[Mapping[str, object]],
        *,
        pad_value: float = 0.0,
        sampling_weights: np.ndarray | None = None,
    ) -> None:
        self.pad_value = pad_value
        self._columns: dict[str, Tensor] | None = None
        self._rows: list[dict[str, Tensor]] = []
        if isinstance(tensors, Mapping):
            self._columns = {key: torch.as_tensor(value) for key, value in tensors.items()}
            lengths = {key: len(value) for key, value in self._columns.items()}
            if len(set(lengths.values())) != 1:
                raise DataError(f"tensors must have equally many examples, not {lengths}")
            self._length = next(iter(lengths.values()))
        else:
            self._rows = [{k: torch.as_tensor(v) for k, v in row.items()} for row in tensors]
            self._length = len(self._rows)
            for position, row in enumerate(self._rows):
                if set(row) != set(self._rows[0]):
                    raise DataError(
                        f"example has keys {sorted(row)}, the first has {sorted(self._rows[0])}",
                        row=position,
                    )
        if self._length == 0:
            raise DataError("there is no example to train on")
        self.sampling_weights = sampling_weights

    def __len__(self) -> int:
        """Number of examples."""
        return self._length

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the tensors, so that a run is not resumed on other data."""
        digest = hashlib.sha256(repr(self.pad_value).encode())
        for row in self._rows if self._columns is None else [self._columns]:
            for key in sorted(row):
                value = row[key].detach().cpu().contiguous()
                digest.update(repr((key, value.dtype, tuple(value.shape))).encode())
                digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def batch(self, indices: np.ndarray, rng: np.random.Generator) -> dict[str, Tensor]:
        """Examples ``indices`` as a dict of tensors ``(B, ...)``."""
        if self._columns is not None:
            rows = torch.as_tensor(np.asarray(indices, dtype=np.int64))
            return {key: value[rows] for key, value in self._columns.items()}
        return pad_batch([self._rows[i] for i in indices], self.pad_value)


def pad_batch(rows: Sequence[Mapping[str, Tensor]], pad_value: float = 0.0) -> dict[str, Tensor]:
    """Stacks examples of mixed lengths: ``(T_i, ...)`` to ``(B, max T, ...)``, with ``mask``.

    ``mask`` ``(B, max T)`` is that of the longest tensors; it is not made when the examples bring
    their own (which is padded with False) or have scalars only.
    """
    batch: dict[str, Tensor] = {}
    longest = np.zeros(len(rows), dtype=np.int64)
    for key in rows[0]:
        values = [row[key] for row in rows]
        if values[0].ndim == 0:
            batch[key] = torch.stack(values)
            continue
        lengths = np.array([len(value) for value in values])
        longest = np.maximum(longest, lengths)
        fill = pad_value if values[0].is_floating_point() else 0
        padded = values[0].new_full((len(rows), int(lengths.max()), *values[0].shape[1:]), fill)
        for position, value in enumerate(values):
            padded[position, : len(value)] = value
        batch[key] = padded
    if "mask" not in batch and longest.max(initial=0) > 0:
        steps = torch.arange(int(longest.max()))
        batch["mask"] = steps < torch.as_tensor(longest)[:, None]
    return batch
