"""Checkpoints: one safetensors file with JSON in its header, written atomically, never pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from foretell.errors import TrainingError

FILE = "training.safetensors"
_FORMAT = 1
_TENSOR, _ARRAY, _PAIRS = "__tensor__", "__array__", "__pairs__"


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> Path:
    """Writes a nested state of tensors, numbers and strings into ``folder``.

    The file is complete or absent at every moment: a temporary file is written, flushed to the
    disk, and renamed over the old one.
    """
    tensors: dict[str, Tensor] = {}
    header = {"foretell": json.dumps({"format": _FORMAT, "state": _flatten(state, "", tensors)})}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    temporary = folder / f".{FILE}.{os.getpid()}"
    try:
        with open(temporary, "wb") as file:
            file.write(serialise(tensors, metadata=header))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):
        directory = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return path


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """Reads what :func:`save_checkpoint` wrote; None when ``folder`` holds no checkpoint.

    Tensors come on ``device``, numpy arrays as such.

    Raises:
        TrainingError: a file that is damaged or of a newer format.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})["foretell"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        version = content["format"]
        if version == _FORMAT:
            state: dict[str, Any] = _unflatten(content["state"], tensors, torch.device(device))
            return state
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise TrainingError(
            f"checkpoint {path} is damaged or no checkpoint ({error}): delete it to start anew"
        ) from error
    raise TrainingError(
        f"checkpoint {path} has format {version}, this library reads {_FORMAT}: "
        "resume with the version of foretell that wrote it"
    )


def check_same(saved: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> None:
    """Refuses to resume a run under other settings than it was started with.

    Raises:
        TrainingError: naming every setting that differs, with both values.
    """
    # Through JSON, as the saved ones went: tuples and lists are then the same.
    given = json.loads(json.dumps(given))
    differing = [
        f"{key} was {saved.get(key)!r} and is {given.get(key)!r}"
        for key in sorted(set(saved) | set(given))
        if saved.get(key) != given.get(key)
    ]
    if differing:
        raise TrainingError(
            f"cannot resume from {Path(folder) / FILE}: {'; '.join(differing)}. Give the settings "
            "the run was started with, or another checkpoint folder"
        )


def _flatten(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The JSON shape of ``value``; its tensors go to ``tensors`` under their path."""
    if isinstance(value, Tensor):
        # A copy: tied parameters share memory, which the format does not have.
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, np.ndarray):
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value).copy())
        return {_ARRAY: name}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value) and not _is_marker(value):
            return {k: _flatten(v, f"{name}/{k}", tensors) for k, v in value.items()}
        pairs = enumerate(value.items())
        return {_PAIRS: [[k, _flatten(v, f"{name}/{i}", tensors)] for i, (k, v) in pairs]}
    if isinstance(value, list | tuple):
        return [_flatten(v, f"{name}/{i}", tensors) for i, v in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TrainingError(
        f"checkpoint entry {name!r} is a {type(value).__name__}: a state holds tensors, numbers, "
        "strings, and dicts or lists of them"
    )


def _unflatten(value: Any, tensors: Mapping[str, Tensor], device: torch.device) -> Any:
    if isinstance(value, list):
        return [_unflatten(v, tensors, device) for v in value]
    if not isinstance(value, dict):
        return value
    if _is_marker(value):
        ((kind, content),) = value.items()
        if kind == _TENSOR:
            return tensors[content].to(device)
        if kind == _ARRAY:
            return tensors[content].numpy()
        return {k: _unflatten(v, tensors, device) for k, v in content}
    return {k: _unflatten(v, tensors, device) for k, v in value.items()}


def _is_marker(value: Mapping[Any, Any]) -> bool:
    return len(value) == 1 and next(iter(value)) in (_TENSOR, _ARRAY, _PAIRS)
