"""Where the values of a panel that was not measured come from: samplers by name, and from a folder.

A sampler has ``size`` and ``draw`` (:class:`~foretell.decisions.sensing.donors.Donors`); those that
``foretell`` brings are also saved and loaded.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from foretell.errors import ArtefactError, ParameterError
from foretell.learners.artefact import read_kind

_HERE = "foretell.decisions.sensing"
SAMPLERS = {
    "knn": (f"{_HERE}.donors", "NearestDonors"),
    "gaussian": (f"{_HERE}.gaussian", "GaussianDonors"),
    "mixture": (f"{_HERE}.mixture", "MixtureDonors"),
    "vae": (f"{_HERE}.vae", "VAEDonors"),
}
"""Name -> module and class; a module is loaded when its sampler is first made."""


def check_sampler(name: str) -> str:
    """The same name, if it is one.

    Raises:
        ParameterError: there is no such sampler.
    """
    if name not in SAMPLERS:
        raise ParameterError(f"sampler is one of {', '.join(SAMPLERS)}, not {name!r}")
    return name


def make_sampler(
    name: str, values: ArrayLike, seen: ArrayLike, *, size: int = 24, **options: Any
) -> Any:
    """A sampler fitted to training patients.

    Args:
        name: ``"knn"``, ``"gaussian"``, ``"mixture"`` or ``"vae"``.
        values: (N, F) training patients.
        seen: (N, F) bool, which values are there.
        size: draws for a patient.
        options: of the sampler's class.

    Raises:
        ParameterError: there is no such sampler, or a number is out of range.
        DataError: the patients do not fit, or are too few.
    """
    module, kind = SAMPLERS[check_sampler(name)]
    return getattr(import_module(module), kind)(values, seen, size=size, **options)


def load_sampler(folder: str | Path) -> Any:
    """Reads a sampler that was saved, whichever it is.

    Raises:
        ArtefactError: the folder is damaged, newer, or holds something else.
    """
    kind = read_kind(folder)
    for module, name in SAMPLERS.values():
        if kind == name:
            return getattr(import_module(module), name).load(folder)
    raise ArtefactError(f"{folder} holds a {kind}, which is no sampler")
