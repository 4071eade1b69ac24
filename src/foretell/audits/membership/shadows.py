"""Shadow models: the same training on random halves of the data, kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import ArtefactError, DataError, ParameterError
from foretell.learners.artefact import load_artefact, save_artefact

_KIND = "ShadowModel"
SIGNALS = "signals"

Output = ArrayLike | Mapping[str, ArrayLike]
TrainFunction = Callable[[NDArray[np.bool_], int], Any]
"""``(members (N,) bool, seed) -> signals (N,)``, or arrays by name with ``signals`` among them, or
a model, whose signals ``signal_fn`` then reads. Members are what it may train on and no more."""


class Mapper(Protocol):
    """What spreads the trainings: an engine of a run, a pool, or ``None`` for one by one."""

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> Iterator[Any]:
        """Results in the order of the arguments."""
        ...


@dataclass(frozen=True, eq=False)
class Shadows:
    """What shadow models said of the examples.

    Attributes:
        signals: ``(M, N)`` or ``(M, N, Q)``.
        membership: ``(M, N)`` whether model m was trained on example n.
        extra: whatever else the trainings handed back by name, ``(M, ...)``.
    """

    signals: NDArray[np.float64]
    membership: NDArray[np.bool_]
    extra: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of models."""
        return len(self.signals)


class ShadowTrainer:
    """Trains many models on independent random halves of N examples, and goes on where it was.

    Each model is written to a folder of its own in one step when it is done, so that a run that was
    killed loses the trainings that were under way and nothing else. A private target needs shadow
    models with the same private training: put it into ``train_fn``.

    Args:
        train_fn: the training; must follow from its arguments alone. To be spread over processes
            it must be picklable.
        n_models: M.
        seed: of the halves and of the trainings.
        folder: where results are kept; None keeps nothing.
        signal_fn: reads arrays off what ``train_fn`` returns, if that is a model.
        about: what the training is, as JSON values: a folder of another one is refused.

    Raises:
        ParameterError: fewer than one model, or a negative seed.
    """

    def __init__(
        self,
        train_fn: TrainFunction,
        n_models: int = 33,
        seed: int = 0,
        folder: str | Path | None = None,
        *,
        signal_fn: Callable[[Any], Output] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(n_models, bool) or n_models < 1 or seed < 0:
            raise ParameterError(
                f"n_models must be at least 1 and seed not negative, not {n_models} and {seed}"
            )
        self.train_fn, self.signal_fn = train_fn, signal_fn
        self.n_models, self.seed = int(n_models), int(seed)
        self.folder = None if folder is None else Path(folder)
        self.about = dict(about or {})

    def members(self, n: int) -> NDArray[np.bool_]:
        """The halves ``(M, N)``: each model's own, ``N // 2`` examples.

        Model m's half does not depend on how many models there are.
        """
        found = np.zeros((self.n_models, n), bool)
        for row in range(self.n_models):
            chosen = np.random.default_rng([self.seed, row]).permutation(n)[: n // 2]
            found[row, chosen] = True
        return found

    def run(
        self,
        n: int,
        *,
        engine: Mapper | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Shadows:
        """Trains what is not there yet.

        Args:
            n: number of examples N.
            engine: spreads the trainings, e.g. one of ``foretell.runs.engine``; the folder must be
                seen from wherever it works.
            tell: gets a line after each model.

        Raises:
            DataError: fewer than two examples, or a training returns other shapes.
            ArtefactError: the folder belongs to another training.
        """
        if n < 2:
            raise DataError(f"halves of {n} examples cannot be compared: two are needed at least")
        membership = self.members(n)
        if self.folder is not None:
            self._claim(n)
        job = partial(_train, self.train_fn, self.signal_fn, self.folder)
        numbers = range(self.n_models)
        seeds = [self._seed(number) for number in numbers]
        parts = []
        spread = map if engine is None else engine.map
        for number, found in enumerate(spread(job, numbers, seeds, list(membership))):
            parts.append(found)
            tell(f"shadow model {number + 1} of {self.n_models}")
        names = list(parts[0])
        for number, part in enumerate(parts):
            if list(part) != names or part[SIGNALS].shape != parts[0][SIGNALS].shape:
                raise DataError(
                    f"model {number} returned {_shapes(part)}, the first {_shapes(parts[0])}"
                )
        stacked = {name: np.stack([part[name] for part in parts]) for name in names}
        return Shadows(stacked.pop(SIGNALS), membership, stacked)

    def _seed(self, number: int) -> int:
        state = np.random.SeedSequence(self.seed, spawn_key=(number,)).generate_state(1)
        return int(state[0] >> 1)

    def _claim(self, n: int) -> None:
        """Says whose folder it is, or finds that it is another's."""
        assert self.folder is not None
        mine = {"seed": self.seed, "examples": n, "about": self.about}
        digest = hashlib.sha256(json.dumps(mine, sort_keys=True, default=str).encode()).hexdigest()
        note = self.folder / "shadows.json"
        if note.is_file():
            try:
                theirs = json.loads(note.read_text(encoding="utf-8"))["fingerprint"]
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise ArtefactError(f"{note} cannot be read: {error!r}") from error
            if theirs != digest:
                raise ArtefactError(
                    f"{self.folder} holds shadow models of another training (other data, settings "
                    "or seed): name another folder, or delete it"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        partial_note = note.with_name(".shadows.json.partial")
        document = json.dumps({"fingerprint": digest, **mine}, indent=1, default=str)
        partial_note.write_text(document + "\n", encoding="utf-8")
        partial_note.replace(note)


def _train(
    train_fn: TrainFunction,
    signal_fn: Callable[[Any], Output] | None,
    folder: Path | None,
    number: int,
    seed: int,
    members: NDArray[np.bool_],
) -> dict[str, NDArray[Any]]:
    """One model's arrays, from its folder where it was trained before."""
    home = None if folder is None else folder / f"model{number:04d}"
    if home is not None and (home / "model.json").is_file():
        config, arrays = load_artefact(home, _KIND)
        if config.get("members") != _digest(members):
            raise ArtefactError(f"{home} is a model of another half of the data: delete it")
        return {name: arrays[name].reshape(shape) for name, shape in config["shapes"].items()}
    output = train_fn(members.copy(), seed)
    if signal_fn is not None:
        output = signal_fn(output)
    arrays = {SIGNALS: output} if not isinstance(output, Mapping) else dict(output)
    if SIGNALS not in arrays:
        raise DataError(f"a training returned {list(arrays)} without {SIGNALS!r}")
    arrays = {name: np.asarray(values) for name, values in arrays.items()}
    arrays[SIGNALS] = arrays[SIGNALS].astype(np.float64)
    if arrays[SIGNALS].ndim not in (1, 2) or len(arrays[SIGNALS]) != len(members):
        raise DataError(
            f"a training returned signals {arrays[SIGNALS].shape} for {len(members)} examples",
            hint="All N examples need a signal, members and others",
        )
    if home is not None:
        # A file of arrays knows no scalars.
        shapes = {name: list(values.shape) for name, values in arrays.items()}
        config = {"members": _digest(members), "seed": seed, "shapes": shapes}
        save_artefact(home, _KIND, config, arrays)
    return arrays


def _digest(members: NDArray[np.bool_]) -> str:
    return hashlib.sha256(np.packbits(members).tobytes()).hexdigest()


def _shapes(part: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {values.shape}" for name, values in part.items())
