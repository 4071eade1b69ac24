"""What every demand forecaster can do: fit, predict from any origin, save and load."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from foretell.data.carried import MissingKnown, carry_known
from foretell.data.frequency import Frequency
from foretell.data.panel import DataNote, Panel
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.learners.artefact import load_artefact, read_kind, readable, save_artefact
from foretell.learners.demand.forecast import DEFAULT_LEVELS, Forecast, check_levels


class Forecaster(BaseEstimator):
    """Base of the demand forecasters, in scikit-learn's idiom.

    Sub-classes take keyword hyper-parameters in ``__init__`` and only store them (``get_params``
    and ``clone`` work), set ``horizon_`` and ``levels_`` in ``_fit`` and implement ``_fit``,
    ``_predict``, ``_state`` and ``_restore``.

    Args:
        h: number of periods to forecast, K.
        quantiles: ascending levels in (0, 1).
    """

    kinds: ClassVar[dict[str, type[Forecaster]]] = {}

    def __init__(self, h: int = 13, quantiles: Sequence[float] = DEFAULT_LEVELS) -> None:
        self.h = h
        self.quantiles = quantiles

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        Forecaster.kinds[cls.__name__] = cls

    @property
    def name(self) -> str:
        """What the model is called in tables: the class name unless ``alias`` is given."""
        return getattr(self, "alias", None) or type(self).__name__

    def fit(self, panel: Panel) -> Self:
        """Learns from everything in the panel; nothing after its series' ends is looked at.

        Raises:
            DataError: the panel cannot be used; names column and series.
            ParameterError: a hyper-parameter is out of its range.
        """
        if self.h < 1:
            raise ParameterError(f"{self.name}: h must be at least 1, not {self.h}")
        check_levels(self.quantiles)
        self._fit(panel)
        self.frequency_: Frequency | None = panel.frequency
        self.panel_columns_ = _columns(panel)
        self.is_fitted_ = True
        return self

    def predict(
        self,
        panel: Panel,
        *,
        quantiles: Sequence[float] | None = None,
        missing_known: MissingKnown = "carry",
    ) -> Forecast:
        """Forecasts the h periods after each series' last step.

        Args:
            panel: series to continue: those of the fit, with new observations, or new ones.
            quantiles: levels to return; those of the constructor when ``None``.
            missing_known: what to do where some of the series lack known covariates ahead:
                ``"carry"`` the last value on, counted in a warning and in the forecast's
                ``notes`` (see :func:`~foretell.data.carried.carry_known`), or raise an
                ``"error"``. Where all lack them it is an error.
        """
        return self.predict_origins(panel, [0], quantiles=quantiles, missing_known=missing_known)

    def predict_origins(
        self,
        panel: Panel,
        back: Sequence[int],
        *,
        quantiles: Sequence[float] | None = None,
        missing_known: MissingKnown = "carry",
    ) -> Forecast:
        """Forecasts as they would have been made at earlier origins, without a new fit.

        Args:
            panel: the series.
            back: periods before each series' end at which to stand; 0 is the end itself.
            quantiles: levels to return.
            missing_known: as in :meth:`predict`.

        Returns:
            Forecast of ``len(back) * N`` rows: all series at the first origin, then the next.
        """
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError(f"{self.name} is not fitted: call fit(panel) first")
        fitted, given = getattr(self, "frequency_", None), panel.frequency
        if fitted is not None and (fitted.kind, fitted.step) != (given.kind, given.step):
            raise DataError(
                f"{self.name} was fitted on periods of {fitted.alias!r}, this panel's are "
                f"{given.alias!r}",
                hint="Give series of the frequency of the fit",
            )
        panel, notes = self._with_known(panel, max(0, self.h - min(back)), missing_known)
        forecast = self._predict_origins(panel, list(back))
        if notes:
            forecast = replace(forecast, notes=(*forecast.notes, *notes))
        return forecast.at_levels(self.quantiles if quantiles is None else quantiles)

    def _with_known(
        self, panel: Panel, horizon: int, missing: MissingKnown
    ) -> tuple[Panel, tuple[DataNote, ...]]:
        """The panel with all that must be known ahead, and what was carried on for that."""
        if missing not in get_args(MissingKnown):
            raise ParameterError(
                f"{self.name}: missing_known must be 'carry' or 'error', not {missing!r}"
            )
        given = panel if missing == "error" else carry_known(panel, horizon)
        notes = given.notes[len(panel.notes) :]
        given.require_known(horizon)
        if notes:
            found = "; ".join(f"{note.message} (first {note.series})" for note in notes)
            warnings.warn(f"{self.name}: {found}", stacklevel=4)
        return given, notes

    def to_gluonts_predictor(self, *, series_at_once: int = 10_000) -> Any:
        """This forecaster as a ``gluonts.model.predictor.Predictor``.

        Its ``predict(dataset)`` takes GluonTS dicts and yields ``QuantileForecast`` objects, so
        that ``make_evaluation_predictions`` and ``Evaluator`` work with it. Rows of the dicts'
        arrays stand for the covariates of the fit in their order, as
        :func:`~foretell.data.to_gluonts` writes them. ``serialize`` and ``deserialize`` work.

        Args:
            series_at_once: dicts that are forecast together.

        Raises:
            ImportError: GluonTS is not installed (extra ``gluonts``).
        """
        from foretell.learners.demand.gluonts_predictor import gluonts_predictor

        return gluonts_predictor(self, series_at_once=series_at_once)

    def save(self, folder: str | Path) -> None:
        """Writes JSON and safetensors; see :mod:`foretell.learners.artefact`."""
        if not getattr(self, "is_fitted_", False):
            raise NotFittedError(f"{self.name} is not fitted: call fit(panel) first")
        state, arrays = self._state()
        frequency = getattr(self, "frequency_", None)
        config = {
            "parameters": self._parameters(), "state": state,
            "frequency": None if frequency is None else frequency.to_dict(),
            "columns": getattr(self, "panel_columns_", None),
        }  # fmt: skip
        save_artefact(folder, type(self).__name__, config, arrays)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Reads what :meth:`save` wrote; on the base class any forecaster is read.

        Raises:
            ArtefactError: the folder is damaged, newer, or holds something else.
        """
        kind = read_kind(folder)
        concrete = Forecaster.kinds.get(kind)
        if concrete is None or not issubclass(concrete, cls):
            raise ArtefactError(f"{folder} holds a {kind}, which is not a {cls.__name__}")
        config, arrays = load_artefact(folder, kind)
        with readable(folder, kind):
            model = concrete(**concrete._from_parameters(config["parameters"]))
            model._restore(config["state"], arrays)
            frequency = config.get("frequency")
            model.frequency_ = None if frequency is None else Frequency(**frequency)
            model.panel_columns_ = config.get("columns") or _columns(None)
        model.is_fitted_ = True
        return model

    def _predict_origins(self, panel: Panel, back: list[int]) -> Forecast:
        """One origin after the other; models that can do all at once override it."""
        return Forecast.concat([self._predict(panel.cut(b)) for b in back])

    def _parameters(self) -> dict[str, Any]:
        """Hyper-parameters as JSON values; override where one of them is an object."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self.get_params(deep=False).items()
        }

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """The inverse of :meth:`_parameters`."""
        return parameters

    @abstractmethod
    def _fit(self, panel: Panel) -> None: ...

    @abstractmethod
    def _predict(self, panel: Panel) -> Forecast: ...

    @abstractmethod
    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]: ...

    @abstractmethod
    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> None: ...

    def _forecast(self, panel: Panel, values: NDArray, **more: Any) -> Forecast:
        """A forecast from the panel's ends at the constructor's levels."""
        return Forecast(
            panel.ids,
            panel.ends,
            panel.frequency,
            check_levels(self.quantiles),
            np.asarray(values, np.float32),
            model=self.name,
            **more,
        )


def _columns(panel: Panel | None) -> dict[str, Any]:
    """Names of a panel's covariates and attributes, in its order, as JSON values."""
    if panel is None:
        return {"past": [], "known": [], "events": [], "static_categorical": {}, "static_real": []}
    return {
        "past": list(panel.past),
        "known": list(panel.known),
        "events": list(panel.events),
        "static_categorical": {
            name: list(category.vocabulary) for name, category in panel.static_categorical.items()
        },
        "static_real": list(panel.static_real),
    }
