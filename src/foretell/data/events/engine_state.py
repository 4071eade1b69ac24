"""An engine's state in one file: safetensors with a JSON header, replaced in one step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from foretell.data.events.emission import Protocol
from foretell.data.events.engine import EmissionEngine
from foretell.data.events.schema import EventSchema
from foretell.errors import ArtefactError, ForetellError

_FORMAT, _VERSION = "foretell.emission_engine", 1


def save(engine: EmissionEngine, file: Path) -> None:
    """What :meth:`EmissionEngine.save` does."""
    engine._flatten()
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "schema": engine.schema.to_dict(),
        "protocol": vars(engine.protocol),
        "grace": engine.grace,
        "stream_version": engine.version,
        # The least float is JSON's nearest to a clock that was not started.
        "now": None if np.isneginf(engine.now) else engine.now,
        "shown": None if np.isneginf(engine._shown) else engine._shown,
        "counts": dict(engine.counts),
        "warned": engine._warned,
        "kinds": engine._kinds,
        "given_deadlines": engine._given_deadlines,
        "features": list(engine._features),
        "orphans": [[name, *o] for name, found in engine._orphans.items() for o in found],
    }
    arrays: dict[str, NDArray] = {
        "times": engine._times,
        "deadlines": engine._deadlines,
        "highest": engine._highest,
        "stages": engine._stages,
        "changed": engine._changed.astype(np.uint8),
        "outcome_slots": engine._outcome_slots[0],
        "outcome_kinds": engine._outcome_kinds[0],
        "outcome_times": engine._outcome_times[0],
        **_packed(engine._names),
        **{f"first_{i}": values for i, values in enumerate(engine._first)},
        **{f"feature_{i}": values for i, values in enumerate(engine._features.values())},
    }
    partial = file.with_name(file.name + ".partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        save_file(
            {k: np.ascontiguousarray(v) for k, v in arrays.items()},
            partial,
            metadata={"engine": json.dumps(header, ensure_ascii=False)},
        )
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def load(file: Path) -> EmissionEngine:
    """What :meth:`EmissionEngine.load` does."""
    if not file.is_file():
        raise ArtefactError(f"there is no saved emission engine at {file}")
    try:
        with safe_open(file, "numpy") as stored:
            header = json.loads((stored.metadata() or {})["engine"])
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}
        if header["format"] != _FORMAT:
            raise ValueError(f"its format is {header['format']!r}")
        if int(header["version"]) > _VERSION:
            raise ArtefactError(
                f"{file} has version {header['version']}; this library reads up to {_VERSION}: "
                "update foretell"
            )
        return _restored(header, arrays)
    except ArtefactError:
        raise
    except (SafetensorError, ForetellError, ValueError, KeyError, TypeError, OSError) as error:
        raise ArtefactError(
            f"the saved emission engine {file} is damaged: {type(error).__name__}: {error}"
        ) from error


def _restored(header: dict[str, Any], arrays: dict[str, NDArray]) -> EmissionEngine:
    schema = EventSchema.from_dict(header["schema"])
    settings: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in header["protocol"].items()
    }
    protocol = Protocol(**settings)
    engine = EmissionEngine(
        schema, protocol, grace=header["grace"], version=header["stream_version"]
    )
    engine.now = -np.inf if header["now"] is None else float(header["now"])
    engine._shown = -np.inf if header["shown"] is None else float(header["shown"])
    engine.counts.update({str(k): int(v) for k, v in header["counts"].items()})
    engine._warned = bool(header["warned"])
    engine._given_deadlines = bool(header["given_deadlines"])
    kinds = [str(k) for k in header["kinds"]]
    if kinds[: len(engine._kinds)] != engine._kinds:
        raise ValueError("its kinds are not those of its schema")
    engine._kinds = kinds
    count = len(arrays["times"])

    def array(name: str, kind: Any, size: int = count) -> NDArray:
        values = arrays[name]
        if values.shape != (size,) or values.dtype != np.dtype(kind):
            raise ValueError(f"{name} is {values.dtype}{values.shape}")
        return values.copy()

    engine._times, engine._deadlines = array("times", np.float64), array("deadlines", np.float64)
    engine._highest, engine._stages = array("highest", np.int8), array("stages", np.uint8)
    engine._changed = array("changed", np.uint8).astype(bool)
    engine._first = [array(f"first_{i}", np.float64) for i in range(len(engine._kinds))]
    if header["features"] != list(schema.features):
        raise ValueError("its features are not those of its schema")
    for i, (name, kind) in enumerate(schema.features.items()):
        engine._features[name] = array(f"feature_{i}", kind if isinstance(kind, str) else np.int32)
    outcomes = len(arrays["outcome_slots"])
    slots = array("outcome_slots", np.int64, outcomes)
    codes = array("outcome_kinds", np.int16, outcomes)
    if outcomes and not (
        0 <= slots.min() <= slots.max() < count
        and 0 <= codes.min() <= codes.max() < len(engine._kinds)
    ):
        raise ValueError("an outcome belongs to no entity")
    engine._outcome_slots, engine._outcome_kinds = [slots], [codes]
    engine._outcome_times = [array("outcome_times", np.float64, outcomes)]
    engine._names = _unpacked(arrays, schema.ids)
    engine._slots = {name: i for i, name in enumerate(engine._names.tolist())}
    if len(engine._slots) != count:
        raise ValueError("an id is there twice")
    for name, kind, time in header["orphans"]:
        engine._orphans.setdefault(name, []).append((int(kind), float(time)))
    return engine


def _packed(names: NDArray) -> dict[str, NDArray]:
    """Names as tensors: integers, or UTF-8 with lengths."""
    if names.dtype != object:
        return {"ids": names}
    texts = [str(name).encode() for name in names]
    return {
        "ids": np.frombuffer(b"".join(texts), np.uint8),
        "id_lengths": np.array([len(t) for t in texts], np.int64),
    }


def _unpacked(arrays: dict[str, NDArray], kind: str) -> NDArray:
    packed = arrays["ids"]
    if packed.ndim != 1 or packed.dtype != (np.int64 if kind == "integer" else np.uint8):
        raise ValueError(f"ids are {packed.dtype}{packed.shape}")
    if kind == "integer":
        return packed.copy()
    lengths = arrays["id_lengths"]
    if lengths.ndim != 1 or lengths.dtype != np.int64 or (lengths < 0).any():
        raise ValueError("the lengths of ids are not numbers")
    text, ends = packed.tobytes(), np.cumsum(lengths)
    if lengths.sum() != len(text):
        raise ValueError("the lengths of ids do not fit")
    names = np.empty(len(ends), object)
    names[:] = (
        [text[begin:end].decode() for begin, end in zip(np.r_[0, ends[:-1]], ends, strict=True)]
        if len(ends)
        else []
    )
    return names
