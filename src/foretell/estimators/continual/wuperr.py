"""WUPERR as scikit-learn users know it: one risk model, trained hospital after hospital."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from foretell.data.clinical.stays import Stays
from foretell.errors import DataError, ParameterError
from foretell.estimators.continual import settings, warmup
from foretell.estimators.continual.course import train_site
from foretell.estimators.continual.memory import remember
from foretell.estimators.continual.release import GaussianRelease, Release
from foretell.estimators.continual.rows import (
    Held,
    constants_of,
    described,
    first_encoder,
    fresh_channels,
)
from foretell.estimators.continual.settings import Course, Keeping, NewChannels
from foretell.estimators.continual.site import SiteRecord, SiteRows, Standards
from foretell.estimators.continual.travelling import TravellingRisk
from foretell.estimators.continual.warmup import Freeze, WarmSite, Warmup
from foretell.learners.risk.asking import AT_ONCE
from foretell.learners.risk.examples import require_finite
from foretell.learners.risk.feed_forward import FeedForwardRiskLearner
from foretell.training import Strategy, use_threads


class WUPERR(TravellingRisk):
    """One feed-forward risk net for many hospitals; no row of a patient leaves any of them.

    Weight uncertainty propagation and episodic representation replay (Amrollahi, Shashikumar,
    Holder and Nemati, Scientific Reports 12:8380, 2022). The first hospital trains the whole net
    and its first layer is then frozen for good. Every hospital stores noisy representations of
    some hours and how sure it is of each weight above that layer; the next one minimises

        loss here + rho * mean over earlier sites of the loss on their representations
        + lambda / 2 * sum_i Omega_i (theta_i - theta*_i)^2

    over the upper layers, with ``Omega_n = gamma * Omega_{n-1} + c_n * F_n``. The weights kept are
    those with the best mean of the AUROC on the site's validation part and of that on the episodes
    received: by the current site alone, one would choose to forget.

    What the paper does not publish (widths, strengths, how exemplars are chosen) is as set here.

    Args:
        features: see :class:`~foretell.estimators.FeedForwardRisk`, as for all that is not here.
        horizon: hours ahead.
        hidden: units; freezing on a poor first site costs plasticity, and a wide first layer buys
            it back.
        dropout: share of units dropped.
        n_knots: of the piecewise-linear encoding, from the first site; 0 for none.
        ewc_lambda: strength of the penalty, lambda; 0 leaves the replay alone.
        replay_weight: rho; 0 leaves the penalty alone.
        gamma: how much of the older precision is kept.
        fisher_scale: c_n: ``"mean"`` is the mean Fisher information of an hour, ``"count"`` that of
            all hours (the precision of a posterior).
        fisher_examples: hours from which it is estimated.
        memory_per_site: representations that are stored.
        positives_per_site: of the hours with an onset ahead at most.
        hours_per_patient: representations stored of one patient at most, those of hours with an
            onset ahead first; None for no limit. Noise is averaged away over many of them.
        freeze_first_layer: False is an ablation: stored representations then grow stale.
        freeze: ``"first_site"``, or ``"after_warmup"``: the first ``warmup_sites`` sites with both
            classes, in one place, train the first layer together; no bundle leaves before.
        warmup_sites: see ``freeze``.
        standardised: whether columns of the encoding, and for later sites the units of the first
            layer, are standardised by the first site. Without, a frozen layer shows later sites
            mostly what varied most at the first.
        new_channels: what is done with channels that the first site never had: ``"statistics"``
            scales them by the site's own; ``"adapter"`` also trains a small affine map of the
            inputs for this site alone; ``"ignore"`` leaves them out. Each comes with a warning.
        release: what is done to representations before they are stored; None for nothing.
        release_seed: of its noise, and a secret of the site: whoever knows it can take the noise
            off again, so that it is no part of a bundle, nor follows from what is. None draws from
            the operating system's randomness; a number is for runs that must be repeated.
        min_patients: of each class behind the exemplars of a bundle.
        negatives: hours without onset in a batch.
        positives: hours with one.
        replay_batch: representations drawn of each earlier site a step.
        epochs: passes over the negative hours.
        learning_rate: the highest of the schedule.
        upper_learning_rate: that of later sites, behind the frozen layer: upper layers alone learn
            faster than a whole net should. None for ``learning_rate``.
        weight_decay: on matrices.
        validation_size: share of patients held out to choose weights by where no validation part
            is given.
        validate_every: steps between validations; None for half a pass.
        patience: validations without a better one after which training stops.
        random_state: of everything that is random.
        threads: of torch on a CPU.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.

    Attributes:
        sites_: name -> :class:`SiteRecord`, in the order of training.
        episodes_: name -> :class:`Episodes`.
        precision_: Omega by parameter.
        anchor_: theta* by parameter, of the standardised net as ``precision_``.
        standards_: of the units of the first layer.
        not_finite_: entries of the Fisher information that were not finite and count as 0.

    Example:
        >>> model = WUPERR(release=GaussianRelease(20.0))  # doctest: +SKIP
        >>> model.fit_site(stays_a, site="A")  # doctest: +SKIP
        >>> model.export_bundle("a.safetensors", audit=PrivacyAudit())  # doctest: +SKIP
        >>> model = WUPERR.from_bundle("a.safetensors")  # doctest: +SKIP
        >>> model.fit_site(stays_b, site="B").predict_proba(stays_b)  # doctest: +SKIP
    """

    unit: Literal["row", "stay"] = "row"
    time_since: Literal["feature"] = "feature"
    stays = 64
    max_steps: int | None = None
    schedule = "one_cycle"

    def __init__(
        self,
        features: str = "p19-v1",
        *,
        horizon: float = 4,
        hidden: Sequence[int] = (512, 64),
        dropout: float = 0.3,
        n_knots: int = 7,
        ewc_lambda: float = 30.0,
        replay_weight: float = 0.5,
        gamma: float = 1.0,
        fisher_scale: Literal["mean", "count"] = "mean",
        fisher_examples: int = 2000,
        memory_per_site: int = 5000,
        positives_per_site: int = 1000,
        hours_per_patient: int | None = None,
        freeze_first_layer: bool = True,
        freeze: Freeze = "first_site",
        warmup_sites: int = 1,
        standardised: bool = True,
        new_channels: NewChannels = "statistics",
        release: Release | None = GaussianRelease(),  # noqa: B008  (frozen)
        release_seed: int | None = None,
        min_patients: int = 20,
        negatives: int = 512,
        positives: int = 32,
        replay_batch: int = 512,
        epochs: float = 4,
        learning_rate: float = 5e-4,
        upper_learning_rate: float | None = 3e-3,
        weight_decay: float = 0.1,
        validation_size: float = 0.2,
        validate_every: int | None = None,
        patience: int | None = None,
        random_state: int = 0,
        threads: int | None = None,
        device: str = "auto",
    ) -> None:
        self.features = features
        self.horizon = horizon
        self.hidden = hidden
        self.dropout = dropout
        self.n_knots = n_knots
        self.ewc_lambda = ewc_lambda
        self.replay_weight = replay_weight
        self.gamma = gamma
        self.fisher_scale = fisher_scale
        self.fisher_examples = fisher_examples
        self.memory_per_site = memory_per_site
        self.positives_per_site = positives_per_site
        self.hours_per_patient = hours_per_patient
        self.freeze_first_layer = freeze_first_layer
        self.freeze = freeze
        self.warmup_sites = warmup_sites
        self.standardised = standardised
        self.new_channels = new_channels
        self.release = release
        self.release_seed = release_seed
        self.min_patients = min_patients
        self.negatives = negatives
        self.positives = positives
        self.replay_batch = replay_batch
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.upper_learning_rate = upper_learning_rate
        self.weight_decay = weight_decay
        self.validation_size = validation_size
        self.validate_every = validate_every
        self.patience = patience
        self.random_state = random_state
        self.threads = threads
        self.device = device

    def fit(  # type: ignore[override]
        self, X: Stays | ArrayLike, y: ArrayLike | None = None, **options: Any
    ) -> Self:
        """Forgets everything and trains on one site, called ``"site"``; see :meth:`fit_site`."""
        for name in ("sites_", "learner_", "is_fitted_"):
            if hasattr(self, name):
                delattr(self, name)
        return self.fit_site(X, y, site="site", **options)

    def fit_site(
        self,
        X: Stays | ArrayLike,
        y: ArrayLike | None = None,
        *,
        site: str,
        validation: Stays | tuple[ArrayLike, ArrayLike] | None = None,
        rows: ArrayLike | None = None,
        patients: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        rate: float | None = None,
        strategies: Sequence[Strategy] = (),
    ) -> Self:
        """Trains on one more site.

        Args:
            X: stays with their onset, or (R, F) features without missing values.
            y: (R,) labels where X is a matrix.
            site: its name, not used before.
            validation: stays, or features and labels, to choose weights by.
            rows: (R,) mask of further restrictions, such as a subsample of hours.
            patients: (R,) whom the rows of a matrix belong to; needed to export a bundle.
            sample_weight: (R,) of each hour in the loss.
            rate: share of positive hours at the site, where a matrix is a subsample.
            strategies: what changes the training, such as private training.

        Raises:
            DataError: no hour at risk; one class only at the first site.
            ParameterError: the site was trained on before, or a hyper-parameter is out of range.
            TrainingError: training failed.
        """
        self._check()
        settings.check_settings(self.get_params(deep=False))
        first = not getattr(self, "is_fitted_", False)
        if not site or (not first and site in self.sites_):
            raise ParameterError(f"a site needs a name of its own, not {site!r}")
        if first:
            self._forget(site)
        given, held, self.features_ = self._given(
            X, y, site=site, first=first, validation=validation, rows=rows, patients=patients,
            sample_weight=sample_weight, rate=rate,
        )  # fmt: skip
        warm = warmup.going_on(self._warm, self.warmup_sites, self.sites_.values())
        fresh = fresh_channels(given.features, self._constants, self.features_) if not warm else ()
        record = described(site, given, fresh)
        if fresh:
            warnings.warn(
                f"the first site never had {', '.join(fresh)}: their weights in the frozen layer "
                f"are untrained. new_channels={self.new_channels!r} at {site!r}",
                stacklevel=2,
            )
        self._witnesses = {}
        if not (record.trained or first):
            warnings.warn(
                f"{site!r} has {record.positives} positive hours of {record.hours}: nothing is "
                "learned there, and precision and episodes stay as they are",
                stacklevel=2,
            )
            record.intercept = self.offset_
            self.sites_[site] = record
            return self
        parts: Sequence[WarmSite] = [WarmSite(given, held, record)]
        if warm:
            warm = warm.joined(parts[0])
            parts = warm.sites
            given, held = warm.pooled()
            self._begin(given, site)
        course = Course.of(self)
        adapt = bool(fresh) and self.new_channels == "adapter"
        trained = train_site(
            self._carried(), course, given, held, first=bool(warm), adapt=adapt,
            strategies=strategies,
        )  # fmt: skip
        self.result_, self.standards_ = trained.result, trained.standards
        if trained.adapter is not None:
            self.adapters_[site] = trained.adapter
        self.sites_[site] = record
        self.current_site_ = site
        self.is_fitted_, self._warm = True, None if warm is None or warm.over else warm
        for part in parts:
            self._remember(*part)
        return self

    def decision_function(
        self, X: Stays | ArrayLike, *, site: str | None = None
    ) -> NDArray[np.float64]:
        """(R,) log-odds of the onset within the horizon, for every hour.

        Args:
            X: stays, or scaled features.
            site: whose intercept, statistics and adapter count; the last one trained by default.

        Raises:
            NotFittedError: before the first site.
            ParameterError: there is no such site.
            DataError: a feature is not finite.
        """
        self._require_fit()
        site = self.current_site_ if site is None else site
        record = self._record(site)
        with use_threads(self.threads):
            carried = self._carried()
            if not isinstance(X, Stays):
                given = np.asarray(X, np.float32)
                require_finite(given)
                rows = carried.seen(given, record, self.new_channels)
                return carried.logits(rows, site) + record.intercept
            parts = [np.zeros(0)]
            for chunk in X.chunks(8 * AT_ONCE):
                rows = self._builder().transform(chunk, site=site)
                rows = carried.seen(rows, record, self.new_channels)
                parts.append(carried.logits(rows, site))
        return np.concatenate(parts) + record.intercept

    def predict_proba(
        self, X: Stays | ArrayLike, *, site: str | None = None
    ) -> NDArray[np.float64]:
        """(R, 2) probabilities of no onset and of the onset; see :meth:`decision_function`."""
        risk = 1 / (1 + np.exp(-self.decision_function(X, site=site)))
        return np.stack([1 - risk, risk], axis=1)

    @property
    def offset_(self) -> float:  # type: ignore[override]
        """The intercept of the site that was trained last."""
        return self.sites_[self.current_site_].intercept

    def _forget(self, site: str) -> None:
        """As before the first site, which is this one."""
        self.sites_ = {}
        self.adapters_ = {}
        self._warm = Warmup(self.warmup_sites)
        self.current_site_ = site
        self.features_ = None

    def _begin(self, given: SiteRows, site: str) -> None:
        """Encoder and untrained net of the first site, or of a warm-up; nothing is kept yet."""
        positive = int(given.label.sum())
        if not 0 < positive < len(given.label):
            raise DataError(
                f"{positive} of {len(given.label)} hours of {site!r} are positive",
                hint="The first site needs both classes",
            )
        self.encoder_ = first_encoder(
            given, self.n_knots, patients=self.min_patients, standardised=self.standardised
        )
        self.n_features_in_ = given.features.shape[1]
        self._constants = constants_of(given.features)
        width = self.n_features_in_ if self.encoder_ is None else self.encoder_.n_outputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.learner_ = FeedForwardRiskLearner(self._shape(width))
        self.standards_ = Standards.none(self.learner_.shape.hidden[0])
        self.episodes_ = {}
        self.precision_ = {}
        self.anchor_ = {}
        self.not_finite_ = 0

    def _remember(self, given: SiteRows, held: Held | None, record: SiteRecord) -> None:
        """Precision, episodes and intercepts after a site."""
        keeping = Keeping.of(self)
        with use_threads(self.threads):
            kept = remember(self._carried(), keeping, given, held, record, builder=self.features_)
        self.precision_, self.anchor_ = kept.precision, kept.anchor
        self.not_finite_ += kept.not_finite
        self._witnesses[record.name] = kept.witness
