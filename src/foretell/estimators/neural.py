"""What every neural forecaster shares: a learner of the contract, trained by the one loop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.errors import DataError, ParameterError
from foretell.learners.contract import Learner
from foretell.learners.demand.forecast import DEFAULT_LEVELS, Forecast, Span, check_levels
from foretell.learners.demand.forecaster import Forecaster
from foretell.learners.restoring import restored
from foretell.training import Examples, FitResult, Strategy, fit, use_threads
from foretell.training.private import PrivacyStatement, PrivateTraining

Calibrate = Literal["cqr", "engine"]


class NeuralForecaster(Forecaster):
    """Base of the forecasters that are trained by gradient.

    A sub-class says what is learned: :meth:`_learn_data` reads the training panel's statistics,
    :meth:`_make_learner` builds an untrained learner, :meth:`_make_examples` cuts examples, and
    :meth:`_run_origins` evaluates a trained learner at given origins. Training, several seeds,
    validation on the last periods, calibration, saving and loading are here.

    Args:
        h: number of periods to forecast, K.
        quantiles: ascending levels in (0, 1) that are trained.
        max_steps: steps of the optimizer.
        batch_size: examples a step.
        learning_rate: the highest of the schedule.
        weight_decay: on matrices and kernels.
        schedule: of the learning rate, by name; see :func:`foretell.training.fit`.
        seed: of everything that is random.
        seeds: number of networks, trained with ``seed``, ``seed + 1``, ...; their quantiles are
            averaged level by level.
        validation: periods at the end of each series that are kept from training; the weights
            that forecast them best are kept. Required for ``patience``.
        validate_every: steps between validations.
        patience: validations without a better score after which training stops.
        calibrate: ``"cqr"`` or ``"engine"``: mends the coverage on held-out origins; see
            :mod:`foretell.estimators.calibration`. Trains a second time.
        calibration_periods: periods held out for that; ``h`` when ``None``.
        time_limit: seconds after which each training stops.
        threads: of torch on a CPU; None for the physical cores this process may use.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        precision: ``32-true``, ``64-true``, ``bf16-true`` or ``bf16-mixed``.
        checkpoint: folder for checkpoints; one sub-folder a network.
        resume: go on from the checkpoints there.
        progress: draw a progress line.
        alias: name in tables.

    Attributes:
        privacy_: what private training guarantees; None without it.
    """

    private_unit: ClassVar[str] = "example"
    """What one example is, of which private training speaks."""

    privacy_: PrivacyStatement | None = None
    _given: tuple[Strategy, ...] = ()

    def __init__(
        self,
        h: int = 13,
        quantiles: Sequence[float] = DEFAULT_LEVELS,
        *,
        max_steps: int = 1000,
        batch_size: int = 128,
        learning_rate: float = 3e-3,
        weight_decay: float = 1e-2,
        schedule: str = "one_cycle",
        seed: int = 0,
        seeds: int = 1,
        validation: int | None = None,
        validate_every: int = 100,
        patience: int | None = None,
        calibrate: Calibrate | None = None,
        calibration_periods: int | None = None,
        time_limit: float | None = None,
        threads: int | None = None,
        device: str = "auto",
        precision: str = "32-true",
        checkpoint: str | None = None,
        resume: bool = False,
        progress: bool = False,
        alias: str | None = None,
    ) -> None:
        super().__init__(h=h, quantiles=quantiles)
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.schedule = schedule
        self.seed = seed
        self.seeds = seeds
        self.validation = validation
        self.validate_every = validate_every
        self.patience = patience
        self.calibrate = calibrate
        self.calibration_periods = calibration_periods
        self.time_limit = time_limit
        self.threads = threads
        self.device = device
        self.precision = precision
        self.checkpoint = checkpoint
        self.resume = resume
        self.progress = progress
        self.alias = alias

    def fit(self, panel: Panel, *, strategies: Sequence[Strategy] = ()) -> Self:
        """Learns from everything in the panel; nothing after its series' ends is looked at.

        Args:
            panel: the series.
            strategies: what changes the training, ``PrivateTraining`` among them; used once. A
                private training draws every series with the same chance and keeps the last
                weights, not those that do best on raw validation data.

        Raises:
            DataError: the panel cannot be used; names column and series.
            ParameterError: a hyper-parameter is out of its range, or strategies together with
                several networks or a calibration, whose further training they would not see.
        """
        if strategies and (self.seeds != 1 or self.calibrate is not None):
            raise ParameterError(
                f"{self.name}: strategies change one training: set seeds=1 and calibrate=None"
            )
        self._given = tuple(strategies)
        try:
            return super().fit(panel)
        finally:
            self._given = ()

    @abstractmethod
    def _learn_data(self, panel: Panel) -> None:
        """Reads statistics of the training part: what is standardised, encoded, selected."""

    @abstractmethod
    def _make_learner(self) -> Learner:
        """An untrained learner; random numbers come from torch's global generator."""

    @abstractmethod
    def _make_examples(self, panel: Panel, held_out: int | None) -> Examples:
        """Examples to train on, or, with ``held_out``, those of the last periods only."""

    @abstractmethod
    def _run_origins(
        self, learner: Learner, panel: Panel, back: list[int]
    ) -> tuple[NDArray[np.float32], dict[Span, NDArray[np.float32]]]:
        """Quantiles ``(origins * N, K, Q)`` and of spans ``(origins * N, Q)``, origin by origin."""

    @abstractmethod
    def _data_state(self) -> dict[str, Any]:
        """What :meth:`_learn_data` found, as JSON values."""

    @abstractmethod
    def _restore_data(self, state: dict[str, Any]) -> None:
        """Takes back what :meth:`_data_state` gave."""

    def _strategies(self) -> tuple[Strategy, ...]:
        """Strategies of the training, new objects for each network."""
        return ()

    def _fit(self, panel: Panel) -> None:
        if isinstance(self.seeds, bool) or self.seeds < 1:
            raise ParameterError(f"{self.name}: seeds must be at least 1, not {self.seeds!r}")
        if self.patience is not None and not self.validation:
            raise ParameterError(f"{self.name}: patience needs validation=, a number of periods")
        if len(panel) == 0:
            raise DataError("the panel holds no series", hint="At least one series is needed")
        panel.require_known(0)
        self.calibration_ = None
        if self.calibrate is not None:
            from foretell.estimators.calibration import learn_calibration

            self.calibration_ = learn_calibration(self, panel)
        self._learn_data(panel)
        train, validation = panel, None
        if self.validation:
            train = panel.cut(self.validation)
            validation = self._make_examples(panel, self.validation)
        examples = self._make_examples(train, None)
        private = [s for s in self._given if isinstance(s, PrivateTraining)]
        if private and getattr(examples, "sampling_weights", None) is not None:
            examples.sampling_weights = None  # type: ignore[attr-defined]
        self.learners_: list[Learner] = []
        self.history_: list[FitResult] = []
        for number in range(self.seeds):
            seed = self.seed + number
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                learner = self._make_learner()
            folder = None if self.checkpoint is None else Path(self.checkpoint) / f"net{number}"
            result = fit(
                learner, examples, strategies=(*self._strategies(), *self._given),
                validation=validation, best_weights=not private,
                max_steps=self.max_steps, batch_size=self.batch_size,
                learning_rate=self.learning_rate, weight_decay=self.weight_decay,
                schedule=self.schedule, validate_every=self.validate_every,
                patience=self.patience, time_limit=self.time_limit, seed=seed,
                device=self.device, precision=self.precision, threads=self.threads,
                checkpoint=folder, resume=self.resume, progress=self.progress,
            )  # fmt: skip
            self.learners_.append(learner.float())
            self.history_.append(result)
        self.privacy_ = self._statement(private[0]) if private else None

    def _statement(self, private: PrivateTraining) -> PrivacyStatement:
        """The guarantee, in words of series, with what is read of the panel beside the training."""
        statement = private.statement()
        read = "what is read off the panel before training is public: names of categories, the "
        read += "scales of series and covariates, profiles of groups"
        unit = self.private_unit if statement.unit == "example" else statement.unit
        told = [a.replace("are one example", f"are one {unit}") for a in statement.assumptions]
        return replace(statement, unit=unit, assumptions=(*told, read))

    def _predict(self, panel: Panel) -> Forecast:
        return self._predict_origins(panel, [0])

    def _predict_origins(self, panel: Panel, back: list[int]) -> Forecast:
        forecast = self._uncalibrated(panel, back)
        if self.calibration_ is None:
            return forecast
        forecast = self.calibration_.apply(forecast)
        if not self._holds_at_zero():
            return forecast
        spans = {span: np.maximum(sums, 0) for span, sums in forecast.spans.items()}
        return replace(forecast, values=np.maximum(forecast.values, 0), spans=spans)

    def _holds_at_zero(self) -> bool:
        """Whether forecasts are held at zero; a correction must not take them below."""
        return False

    def _uncalibrated(self, panel: Panel, back: list[int]) -> Forecast:
        """Mean of the networks' quantiles at each origin, before any calibration."""
        totals: NDArray[np.float32] | None = None
        spans: dict[Span, NDArray[np.float32]] = {}
        with use_threads(self.threads), torch.inference_mode():
            for learner in self.learners_:
                values, sums = self._run_origins(learner, panel, back)
                totals = values if totals is None else totals + values
                spans = {s: sums[s] + spans[s] if s in spans else sums[s] for s in sums}
        assert totals is not None
        count = np.float32(len(self.learners_))
        ends = [panel.starts + np.maximum(panel.lengths - b, 0) - 1 for b in back]
        return Forecast(
            np.tile(panel.ids, len(back)),
            np.concatenate(ends),
            panel.frequency,
            check_levels(self.quantiles),
            totals / count,
            {s: v / count for s, v in spans.items()},
            model=self.name,
        )

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        arrays = {
            f"net{i}.{name}": tensor.cpu().numpy()
            for i, learner in enumerate(self.learners_)
            for name, tensor in learner.state_dict().items()
        }
        calibration = None if self.calibration_ is None else self.calibration_.to_dict()
        return {
            "data": self._data_state(), "networks": len(self.learners_), "calibration": calibration,
            "privacy": None if self.privacy_ is None else self.privacy_.to_dict(),
        }, arrays  # fmt: skip

    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        from foretell.estimators.calibration import Calibration

        self._restore_data(state["data"])
        self.learners_, self.history_ = [], []
        for i in range(state["networks"]):
            self.learners_.append(restored(self._make_learner, arrays, f"net{i}."))
        saved = state["calibration"]
        self.calibration_ = None if saved is None else Calibration.from_dict(saved)
        statement = state.get("privacy")
        self.privacy_ = None if statement is None else PrivacyStatement.from_dict(statement)
