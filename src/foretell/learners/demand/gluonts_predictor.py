"""A fitted forecaster in GluonTS' clothes, for pipelines that are built on its predictors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.gluonts import from_gluonts
from foretell.data.panel import Categorical, Panel
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.learners.demand.forecaster import Forecaster

CLASS = "ForetellPredictor"
_AT_ONCE = 10_000


def gluonts_predictor(forecaster: Forecaster, *, series_at_once: int = _AT_ONCE) -> Any:
    """See :meth:`Forecaster.to_gluonts_predictor`.

    Raises:
        ImportError: GluonTS is not installed.
        NotFittedError: the forecaster is not fitted.
    """
    if not getattr(forecaster, "is_fitted_", False):
        raise NotFittedError(f"{forecaster.name} is not fitted: call fit(panel) first")
    if series_at_once < 1:
        raise ParameterError(f"series_at_once must be at least 1, not {series_at_once}")
    return _predictor_class()(forecaster, series_at_once)


def __getattr__(name: str) -> Any:
    """The class by name: GluonTS looks it up when it reads a predictor back."""
    if name == CLASS:
        return _predictor_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _predictor_class() -> type:
    """The predictor's class, made when it is first asked for: GluonTS is optional."""
    try:
        from gluonts.model.forecast import QuantileForecast
        from gluonts.model.predictor import Predictor
    except ImportError as error:
        raise ImportError(
            "to_gluonts_predictor needs GluonTS: pip install 'foretell[gluonts]'"
        ) from error

    class ForetellPredictor(Predictor):  # type: ignore[misc]
        """Yields a ``QuantileForecast`` for each dict of a data set, in its order."""

        def __init__(self, forecaster: Forecaster, series_at_once: int = _AT_ONCE) -> None:
            super().__init__(prediction_length=forecaster.h)
            self.forecaster, self.series_at_once = forecaster, series_at_once

        def predict(self, dataset: Iterable[Mapping[str, Any]], **kwargs: Any) -> Iterator[Any]:
            """Forecasts what follows each target; ``num_samples`` and the like do not apply."""
            for entries in _parts(dataset, self.series_at_once):
                panel = panel_of_entries(self.forecaster, entries)
                forecast = self.forecaster.predict(panel)
                keys = [f"{level:.12g}" for level in forecast.levels]
                for entry, values in zip(entries, forecast.values, strict=True):
                    yield QuantileForecast(
                        values.T.copy(),
                        start_date=entry["start"] + len(entry["target"]),
                        forecast_keys=keys,
                        item_id=entry.get("item_id"),
                        info={"model": forecast.model},
                    )

        def serialize(self, path: Path) -> None:
            """Writes GluonTS' note of the class and the forecaster's own folder ``model``."""
            super().serialize(Path(path))
            self.forecaster.save(Path(path) / "model")

        @classmethod
        def deserialize(cls, path: Path, **kwargs: Any) -> ForetellPredictor:
            """Reads what :meth:`serialize` wrote."""
            return cls(Forecaster.load(Path(path) / "model"))

    ForetellPredictor.__qualname__ = CLASS
    return ForetellPredictor


def panel_of_entries(forecaster: Forecaster, entries: Sequence[Mapping[str, Any]]) -> Panel:
    """The panel of GluonTS dicts, with the column names that a forecaster was fitted with.

    GluonTS' arrays have no names: their rows stand for the fitted covariates and attributes in
    the order in which the panel of the fit held them, as :func:`~foretell.data.to_gluonts` writes
    them. A category is its code there, 0 for unknown; only a forecaster fitted on
    :func:`~foretell.data.from_gluonts` takes the numbers themselves as names.

    Raises:
        DataError: a dict has other numbers of covariates than the fit; names the series.
    """
    columns = forecaster.panel_columns_
    frequency = forecaster.frequency_
    if frequency is not None and frequency.kind == "integer":  # GluonTS knows Periods only
        entries = [{**e, "start": getattr(e["start"], "ordinal", e["start"])} for e in entries]
    panel = from_gluonts(entries)
    known = _renamed(panel, panel.known, columns["known"], "feat_dynamic_real")
    categories = _renamed(
        panel, panel.static_categorical, list(columns["static_categorical"]), "feat_static_cat"
    )
    for name, vocabulary in columns["static_categorical"].items():
        if not name.startswith("static_cat_"):
            categories[name] = _decoded(categories[name], tuple(vocabulary))
    return Panel(
        panel.ids,
        panel.frequency,
        panel.starts,
        panel.begins,
        panel.lengths,
        panel.target,
        past=_renamed(panel, panel.past, columns["past"], "past_feat_dynamic_real"),
        known=known,
        known_begins=panel.known_begins,
        known_lengths=panel.known_lengths,
        events=tuple(columns["events"]),
        static_categorical=categories,
        static_real=_renamed(panel, panel.static_real, columns["static_real"], "feat_static_real"),
        notes=panel.notes,
    )


def _renamed(
    panel: Panel, given: Mapping[str, Any], names: Sequence[str], key: str
) -> dict[str, Any]:
    if len(given) != len(names):
        raise DataError(
            f"{key} has {len(given)} rows, the fit had {len(names)}: {', '.join(names) or 'none'}",
            series=str(panel.ids[0]),
            hint="Give them in the order of the panel of the fit",
        )
    return dict(zip(names, given.values(), strict=True))


def _decoded(given: Categorical, vocabulary: tuple[str, ...]) -> Categorical:
    """Codes of a fitted vocabulary from their numbers; what lies outside is unknown."""
    numbers: NDArray[np.int64] = np.array([0, *(int(v) for v in given.vocabulary)])
    codes = numbers[given.codes]
    inside = (codes > 0) & (codes <= len(vocabulary))
    return Categorical(np.where(inside, codes, 0).astype(np.int32), vocabulary)


def _parts(dataset: Iterable[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    """Runs of dicts, at most so many, in which no item comes twice."""
    part: list[Mapping[str, Any]] = []
    names: set[Any] = set()
    for entry in dataset:
        name = entry.get("item_id")
        if len(part) == size or (name is not None and name in names):
            yield part
            part, names = [], set()
        part.append(entry)
        names.add(name)
    if part:
        yield part
