"""MQ-CNN: a convolutional encoder with forking sequences."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.data.panel import Panel
from foretell.errors import ParameterError
from foretell.estimators.neural import Calibrate, NeuralForecaster
from foretell.learners.contract import Learner
from foretell.learners.demand.forecast import DEFAULT_LEVELS, Span
from foretell.learners.demand.neural.calendar import default_groups
from foretell.learners.demand.neural.encoders import CNN_PRESETS, ENCODERS
from foretell.learners.demand.neural.ensembling import EnsembleMethod, ensemble_origins
from foretell.learners.demand.neural.forking import ForkDraw, ForkingExamples
from foretell.learners.demand.neural.mq_learner import MQLearner, MQShape, count_parameters
from foretell.learners.demand.neural.profiles import GroupProfile
from foretell.learners.demand.neural.sequences import SequenceReader, SequenceSpec, learn_spec
from foretell.learners.demand.quantile_forest import holds_at_zero

_SCALE_WINDOW = 13
_CHUNK_STEPS = 200_000
_CHUNK_CELLS = 400_000


class MQCNN(NeuralForecaster):
    """Multi-horizon quantile forecasts from a causal convolutional encoder.

    Wen, Torkkola, Narayanaswamy and Madeka, "A Multi-Horizon Quantile Recurrent Forecaster"
    (2017): direct forecasts of all horizons and levels, trained from every forecast creation date
    of a series in one pass (forking sequences).

    Ours, not the paper's: causal scaling of each fork, a blend of seasonal references as an
    additive skip, a quantile head that cannot cross, quantiles of sums over spans, a censored
    loss, post-hoc calibration.

    Args:
        h: number of periods to forecast, K.
        quantiles: levels that are trained.
        encoder: ``"cnn"`` (kernel 2, dilations 1 to 32), ``"cnn-gluonts"`` (kernels 7, 3, 3,
            dilations 1, 3, 9), ``"lstm"`` or ``"gru"``; the class's own (``"cnn"``) when ``None``.
        n_forks: forecast dates of a series and step, or ``"all"``.
        fork_draw: ``"random"``, ``"contiguous"``, or, for comparisons only, ``"last"`` (one window
            a series) or ``"common"`` (the same random positions in all series of a step).
        season_length: periods of a season, or of several, the main one first (``(24, 168)``); the
            frequency's when ``None``; 1 for no seasonal reference.
        known: known covariates to read; all of the panel when ``None``.
        past: past covariates to read; all when ``None``.
        static: static attributes to read; all when ``None``.
        profile_groups: static categories (a department, a product) whose groups' seasonal profiles
            and growth are references too: last year's mean over like series is less noisy than
            one series.
        non_negative: whether forecasts are held at zero; when ``None``, if no more than one
            training value in a hundred is negative (returns).
        scale_window: observed values in the causal scale; when ``None``, 13, or as many whole
            seasons as cover it where a season is short, so that the scale does not swing with it.
        log_scale: whether the logarithm of the scale is an input; switch it off for exact scale
            equivariance.
        calendar: groups of calendar features (``day``, ``week``, ``month``, ``year``,
            ``easter``); those that the length of the history can teach when ``None``.
        event_distance: periods around an event in which the distance to it is a feature.
        post_event_guard: whether a second branch reads the series with its event periods replaced
            by the local level, so that a peak is not carried over into the weeks after it.
        span_targets: sums of periods to forecast too: :class:`Span` or ``(lead, cover)``.
        loss_weight: exponent of a fork's scale in the loss: 1 minimises the weighted quantile
            loss, 0 counts all series the same.
        t_min: observed values a fork must have seen.
        context_length: longest window that is encoded in training.
        hidden: width of the encoder.
        layers: layers of a recurrent encoder.
        global_hidden: hidden width of the global decoder.
        specific: width of the context of one horizon.
        agnostic: width of the context of all horizons.
        local_hidden: widths of the local decoder.
        embedding: largest width of a category's embedding.
        dropout: share of hidden units dropped.
        unknown_rate: share of static categories hidden at random in training, so that unknown
            ones can be forecast; larger shares also keep the network from learning single
            categories by heart.
        ensemble_origins: earlier forecast dates whose forecasts of the same date are combined with
            the newest one (causal ensembling); 0 for none.
        ensemble_method: ``"mean"``, ``"median"`` or ``"ewm"``.
        options: those of :class:`~foretell.estimators.neural.NeuralForecaster`.

    Example:
        >>> model = MQCNN(h=13, n_forks=24).fit(panel)  # doctest: +SKIP
        >>> model.predict(panel).to_polars()  # doctest: +SKIP
    """

    default_encoder: ClassVar[str] = "cnn"
    private_unit: ClassVar[str] = "series"

    def __init__(
        self,
        h: int = 13,
        quantiles: Sequence[float] = DEFAULT_LEVELS,
        *,
        encoder: str | None = None,
        n_forks: int | Literal["all"] = 24,
        fork_draw: ForkDraw = "random",
        season_length: int | Sequence[int] | None = None,
        known: Sequence[str] | None = None,
        past: Sequence[str] | None = None,
        static: Sequence[str] | None = None,
        profile_groups: Sequence[str] = (),
        non_negative: bool | None = None,
        scale_window: int | None = None,
        log_scale: bool = True,
        calendar: Sequence[str] | None = None,
        event_distance: int = 0,
        post_event_guard: bool = False,
        span_targets: Sequence[Span | tuple[int, int]] = (),
        loss_weight: float = 1.0,
        t_min: int = 1,
        context_length: int = 512,
        hidden: int = 32,
        layers: int = 1,
        global_hidden: int = 64,
        specific: int = 8,
        agnostic: int = 16,
        local_hidden: Sequence[int] = (32, 32),
        embedding: int = 8,
        dropout: float = 0.0,
        unknown_rate: float = 0.02,
        ensemble_origins: int = 0,
        ensemble_method: EnsembleMethod = "mean",
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
        super().__init__(
            h, quantiles, max_steps=max_steps, batch_size=batch_size, learning_rate=learning_rate,
            weight_decay=weight_decay, schedule=schedule, seed=seed, seeds=seeds,
            validation=validation, validate_every=validate_every, patience=patience,
            calibrate=calibrate, calibration_periods=calibration_periods, time_limit=time_limit,
            threads=threads, device=device, precision=precision, checkpoint=checkpoint,
            resume=resume, progress=progress, alias=alias,
        )  # fmt: skip
        self.encoder = encoder
        self.n_forks = n_forks
        self.fork_draw = fork_draw
        self.season_length = season_length
        self.known = known
        self.past = past
        self.static = static
        self.profile_groups = profile_groups
        self.non_negative = non_negative
        self.scale_window = scale_window
        self.log_scale = log_scale
        self.calendar = calendar
        self.event_distance = event_distance
        self.post_event_guard = post_event_guard
        self.span_targets = span_targets
        self.loss_weight = loss_weight
        self.t_min = t_min
        self.context_length = context_length
        self.hidden = hidden
        self.layers = layers
        self.global_hidden = global_hidden
        self.specific = specific
        self.agnostic = agnostic
        self.local_hidden = local_hidden
        self.embedding = embedding
        self.dropout = dropout
        self.unknown_rate = unknown_rate
        self.ensemble_origins = ensemble_origins
        self.ensemble_method = ensemble_method

    def summary(self) -> str:
        """What the fitted model reads, how far it sees and how large it is."""
        learner = self.learners_[0]
        assert isinstance(learner, MQLearner)
        field = learner.receptive_field
        spec = self.spec_
        names = [*spec.known, *spec.past, *spec.static_categorical, *spec.static_real]
        return "\n".join(
            [
                f"{self.name}: {len(self.learners_)} network(s), "
                f"{count_parameters(learner):,} parameters each",
                f"  encoder {self._encoder}, receptive field "
                + ("unlimited" if field is None else f"{field} periods"),
                f"  seasons {list(spec.seasons) or 'none'}, scale over {spec.scale_window} values",
                f"  covariates {', '.join(names) or 'none'}",
            ]
        )

    def _learn_data(self, panel: Panel) -> None:
        self._check()
        seasons = self._seasons(panel)
        self.spec_ = learn_spec(
            panel, self.h, seasons=seasons, scale_window=self._scale_window(seasons),
            past=self.past, known=self.known, static=self.static, groups=self.profile_groups,
            event_distance=self.event_distance,
            spans=tuple(s if isinstance(s, Span) else Span(*s) for s in self.span_targets),
            calendar=self._calendar(panel), log_scale=self.log_scale, guard=self.post_event_guard,
        )  # fmt: skip
        self.holds_at_zero_ = (
            holds_at_zero(panel) if self.non_negative is None else self.non_negative
        )
        reader = SequenceReader(panel, self.spec_)
        self.profiles_ = reader.profiles
        self.shape_ = MQShape.of(
            reader,
            levels=tuple(float(q) for q in self.quantiles),
            encoder=self._encoder, hidden=self.hidden, layers=self.layers,
            global_hidden=self.global_hidden, specific=self.specific, agnostic=self.agnostic,
            local_hidden=tuple(self.local_hidden), embedding=self.embedding,
            dropout=self.dropout, loss_weight=self.loss_weight,
        )  # fmt: skip
        field = self._receptive_field()
        if field is not None and seasons and field < seasons[0]:
            warnings.warn(
                f"{self.name}: the encoder {self._encoder!r} sees {field} periods, less than the "
                f"season of {seasons[0]}; the seasonal references still reach back a season",
                stacklevel=5,
            )

    def _check(self) -> None:
        if self._encoder not in ENCODERS:
            raise ParameterError(
                f"{self.name}: unknown encoder {self._encoder!r}: one of {', '.join(ENCODERS)}"
            )
        if self.scale_window is not None and self.scale_window < 1:
            raise ParameterError(f"{self.name}: scale_window must be at least 1")
        for name in ("hidden", "layers", "specific", "agnostic", "t_min"):
            if int(getattr(self, name)) < 1:
                raise ParameterError(f"{self.name}: {name} must be at least 1")
        for name in ("event_distance", "ensemble_origins", "loss_weight"):
            if getattr(self, name) < 0:
                raise ParameterError(f"{self.name}: {name} must not be negative")
        if not 0 <= self.dropout < 1:
            raise ParameterError(f"{self.name}: dropout must lie in [0, 1), not {self.dropout}")
        for span in self.span_targets:
            reach = span.horizon if isinstance(span, Span) else Span(*span).horizon
            if reach > self.h:
                raise ParameterError(f"{self.name}: {span} reaches beyond the horizon {self.h}")

    @property
    def _encoder(self) -> str:
        return self.default_encoder if self.encoder is None else self.encoder

    def _seasons(self, panel: Panel) -> tuple[int, ...]:
        given = panel.frequency.season if self.season_length is None else self.season_length
        seasons = (given,) if isinstance(given, int) else tuple(given)
        if any(m < 1 for m in seasons):
            raise ParameterError(f"{self.name}: season_length must be at least 1, not {given}")
        return tuple(m for m in seasons if m > 1)

    def _scale_window(self, seasons: tuple[int, ...]) -> int:
        if self.scale_window is not None:
            return self.scale_window
        if not seasons or seasons[0] > 2 * _SCALE_WINDOW:
            return _SCALE_WINDOW
        return -(-_SCALE_WINDOW // seasons[0]) * seasons[0]

    def _calendar(self, panel: Panel) -> tuple[str, ...]:
        if self.calendar is not None:
            return tuple(self.calendar)
        periods = int(panel.ends.max() - panel.starts.min()) + 1
        return default_groups(panel.frequency, periods)

    def _receptive_field(self) -> int | None:
        if self._encoder not in CNN_PRESETS:
            return None
        kernels, dilations = CNN_PRESETS[self._encoder]
        return 1 + sum((k - 1) * d for k, d in zip(kernels, dilations, strict=True))

    def _make_learner(self) -> MQLearner:
        return MQLearner(self.shape_)

    def _make_examples(self, panel: Panel, held_out: int | None) -> ForkingExamples:
        # A fork in a window that was cut from within a series must see what it would see there.
        reach = max([self.spec_.scale_window, *(m + 1 for m in self.spec_.seasons)])
        warmup = max(self._receptive_field() or 2 * reach, reach)
        return ForkingExamples(
            panel,
            self.spec_,
            n_forks=self.n_forks if held_out is None else min(8, held_out),
            context=max(self.context_length, warmup + self.h),
            warmup=warmup,
            t_min=self.t_min,
            draw=self.fork_draw if held_out is None else "random",
            first_origin=held_out,
            unknown_rate=self.unknown_rate if held_out is None else 0.0,
            profiles=self.profiles_,
        )

    def _run_origins(
        self, learner: Learner, panel: Panel, back: list[int]
    ) -> tuple[NDArray[np.float32], dict[Span, NDArray[np.float32]]]:
        assert isinstance(learner, MQLearner)
        extra = self.ensemble_origins
        offsets = np.unique([b + i for b in back for i in range(extra + 1)])
        reader = SequenceReader(panel, self.spec_, self.profiles_)
        q = len(self.shape_.levels)
        spans = [Span(*s) for s in self.shape_.spans]
        values = np.zeros((len(back), len(panel), self.h, q), np.float32)
        sums = np.zeros((len(back), len(panel), len(spans), q), np.float32)
        place = {int(b): j for j, b in enumerate(offsets)}
        for rows in _chunks(panel.lengths, len(offsets) * self.h):
            begins = np.minimum(reader.first_observed[rows], panel.lengths[rows])
            ends = np.maximum(panel.lengths[rows][:, None] - offsets, 0)
            forks = ends - 1 - begins[:, None]
            length = max(1, int(forks.max()) + 1)
            batch = reader.read(rows, begins, forks, length)
            output = learner(batch)
            quantiles, totals = output.quantiles.numpy(), output.spans.numpy()
            for j, b in enumerate(back):
                columns = [place[b + i] for i in range(extra + 1)]
                values[j, rows] = ensemble_origins(quantiles[:, columns], self.ensemble_method)
                sums[j, rows] = totals[:, columns[0]]
        if self.holds_at_zero_:
            np.maximum(values, 0, out=values)
            np.maximum(sums, 0, out=sums)
        flat = sums.reshape(len(back) * len(panel), len(spans), q)
        return (
            values.reshape(-1, self.h, q),
            {span: np.ascontiguousarray(flat[:, s]) for s, span in enumerate(spans)},
        )

    def _holds_at_zero(self) -> bool:
        return bool(self.holds_at_zero_)

    def _data_state(self) -> dict[str, Any]:
        return {
            "spec": self.spec_.to_dict(),
            "shape": self.shape_.to_dict(),
            "holds_at_zero": self.holds_at_zero_,
        }

    def _restore_data(self, state: dict[str, Any]) -> None:
        self.spec_ = SequenceSpec.from_dict(state["spec"])
        self.shape_ = MQShape.from_dict(state["shape"])
        if not self.h == self.spec_.horizon == self.shape_.horizon:
            raise ValueError(f"h={self.h} is not the horizon {self.shape_.horizon} of the network")
        self.holds_at_zero_ = bool(state["holds_at_zero"])

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        state, arrays = super()._state()
        for name, profile in self.profiles_.items():
            arrays |= profile.to_arrays(f"profile.{name}")
        return state, arrays

    def _restore(self, state: dict[str, Any], arrays: dict[str, NDArray]) -> None:
        layers = int(state["data"]["shape"]["layers"])
        if layers > len(arrays):  # each has arrays of its own
            raise ValueError(f"the file does not hold {layers} layers")
        super()._restore(state, arrays)
        self.profiles_ = {
            name: GroupProfile.from_arrays(arrays, f"profile.{name}") for name in self.spec_.groups
        }

    def _parameters(self) -> dict[str, Any]:
        parameters = super()._parameters()
        parameters["span_targets"] = [
            [s.lead, s.cover] if isinstance(s, Span) else list(s) for s in self.span_targets
        ]
        return parameters

    @classmethod
    def _from_parameters(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        spans = [Span(*s) for s in parameters["span_targets"]]
        return {**parameters, "span_targets": spans}


def _chunks(lengths: NDArray[np.int64], cells: int) -> list[NDArray[np.int64]]:
    """Rows of similar length, few enough at a time that their tensors stay small."""
    order = np.argsort(lengths, kind="stable")
    result, begin = [], 0
    while begin < len(order):
        size = max(1, _CHUNK_CELLS // max(1, cells))
        part = order[begin : begin + size]
        longest = max(1, int(lengths[part].max(initial=1)))
        part = part[: max(1, _CHUNK_STEPS // longest)]
        result.append(part)
        begin += len(part)
    return result
