"""WUPERR as scikit-learn users know it: one risk model, trained hospital after hospital."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.labels import target
from foretell.data.clinical.splits import held_out_patients
from foretell.data.clinical.stays import Stays
from foretell.errors import ArtefactError, DataError, NotFittedError, ParameterError
from foretell.estimators.continual.bundle import SiteBundle, read_bundle, write_bundle
from foretell.estimators.continual.release import GaussianRelease, NoRelease, Release
from foretell.estimators.continual.site import (
    Episodes,
    SiteNet,
    SiteRecord,
    SiteRows,
    Standards,
    frozen_hash,
    intercept_for,
)
from foretell.estimators.continual.witness import ReleaseAudit, ReleaseWitness
from foretell.estimators.risk import FeedForwardRisk
from foretell.learners.contract import Learner
from foretell.learners.risk.examples import HourExamples, checked_rows, encoded
from foretell.learners.risk.feed_forward import FeedForwardRiskLearner
from foretell.learners.risk.ranking import auroc
from foretell.training import Strategy, TensorExamples, fit, use_threads
from foretell.training.continual import (
    RepresentationReplay,
    binary_outcomes,
    diagonal_fisher,
    exemplars,
)
from foretell.training.penalty import ParameterPenalty

_AT_ONCE = 8192
_WITNESSES = 20_000

NewChannels = Literal["statistics", "adapter", "ignore"]


class WUPERR(FeedForwardRisk):
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
        freeze_first_layer: False is an ablation: stored representations then grow stale.
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
        >>> model = WUPERR().fit_site(stays_a, site="A")  # doctest: +SKIP
        >>> model.export_bundle("a.safetensors", audit=PrivacyAudit())  # doctest: +SKIP
        >>> model = WUPERR.from_bundle("a.safetensors")  # doctest: +SKIP
        >>> model.fit_site(stays_b, site="B").predict_proba(stays_b)  # doctest: +SKIP
    """

    unit: Literal["row", "stay"] = "row"
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
        freeze_first_layer: bool = True,
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
        self.freeze_first_layer = freeze_first_layer
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
        self._check_all()
        first = not getattr(self, "is_fitted_", False)
        if not site or (not first and site in self.sites_):
            raise ParameterError(f"a site needs a name of its own, not {site!r}")
        if first:
            self.sites_: dict[str, SiteRecord] = {}
            self.episodes_: dict[str, Episodes] = {}
            self.precision_: dict[str, Tensor] = {}
            self.anchor_: dict[str, Tensor] = {}
            self.adapters_: dict[str, tuple[Tensor, Tensor]] = {}
            self.not_finite_ = 0
            self.current_site_: str = site
            self.features_ = None
        given, held = self._rows(X, y, site, validation, rows, patients, sample_weight, rate, first)
        positive = int(given.label.sum())
        both = 0 < positive < len(given.label)
        if first:
            if not both:
                raise DataError(
                    f"{positive} of {len(given.label)} hours of {site!r} are positive",
                    hint="The first site needs both classes",
                )
            self._begin(given)
        fresh = self._fresh(given.features)
        people = None if given.patients is None else len(np.unique(given.patients))
        record = SiteRecord(
            site, len(given.label), positive, people, given.rate, new_channels=fresh, trained=both
        )
        if fresh:
            warnings.warn(
                f"the first site never had {', '.join(fresh)}: their weights in the frozen layer "
                f"are untrained. new_channels={self.new_channels!r} at {site!r}",
                stacklevel=2,
            )
        self._witness: ReleaseWitness | None = None
        if not both:
            warnings.warn(
                f"{site!r} has {positive} positive hours of {len(given.label)}: nothing is learned "
                "there, and precision and episodes stay as they are",
                stacklevel=2,
            )
            last = self.sites_[self.current_site_]
            record.intercept = last.intercept
            self.sites_[site] = record
            return self
        adapt = bool(fresh) and self.new_channels == "adapter" and not first
        self._train_site(given, held, site, first, adapt, strategies)
        self.sites_[site] = record
        self.current_site_ = site
        self.is_fitted_ = True
        self._remember(given, held, record)
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
        """
        self._require_fit()
        site = self.current_site_ if site is None else site
        record = self._record(site)
        with use_threads(self.threads):
            if not isinstance(X, Stays):
                features = self._masked(np.asarray(X, np.float32), record)
                return self._site_logits(features, site) + record.intercept
            parts = [np.zeros(0)]
            for chunk in X.chunks(8 * _AT_ONCE):
                features = self._builder().transform(chunk, site=site)
                parts.append(self._site_logits(self._masked(features, record), site))
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

    def deployed(self, site: str | None = None) -> FeedForwardRisk:
        """The model as one site runs it: a plain risk net with its intercept, to save and serve.

        Raises:
            ParameterError: the site has an adapter, which a plain net has no place for.
        """
        self._require_fit()
        record = self._record(self.current_site_ if site is None else site)
        if record.name in self.adapters_:
            raise ParameterError(f"{record.name!r} has an adapter: predict with this model")
        mine = self.get_params(deep=False)
        plain = FeedForwardRisk(
            **{k: v for k, v in mine.items() if k in FeedForwardRisk().get_params(deep=False)}
        )
        plain.features_, plain.encoder_ = copy.deepcopy(self.features_), self.encoder_
        if plain.features_ is not None and record.name in plain.features_.sites:
            plain.features_.statistics = plain.features_.sites[record.name]
        plain.learner_ = copy.deepcopy(self.learner_).requires_grad_(True)
        plain.n_features_in_, plain.offset_ = self.n_features_in_, record.intercept
        plain.privacy_, plain.is_fitted_ = None, True
        return plain

    def save(self, folder: str | Path) -> None:
        """Saves what a site runs, see :meth:`deployed`; to go on training, export a bundle."""
        self.deployed().save(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Not here: ``FeedForwardRisk.load`` reads what a site runs, ``from_bundle`` the rest.

        Raises:
            ParameterError: always.
        """
        raise ParameterError(
            "load what a site runs with FeedForwardRisk.load, and a bundle with WUPERR.from_bundle"
        )

    def export_bundle(
        self,
        path: str | Path,
        *,
        audit: ReleaseAudit | None,
        override: bool = False,
        private_key: bytes | None = None,
    ) -> SiteBundle:
        """Writes the one file that leaves the site that was trained last.

        Args:
            path: of the file.
            audit: measures what can be read off the representations; its report is part of the
                bundle. None only with ``override``.
            override: exports although the audit says no, or there is none; the bundle says so.
            private_key: 32 bytes of an Ed25519 key to sign with.

        Raises:
            DataError: too few patients of a class, or patients are not known, or the audit found
                more than it allows.
            NotFittedError: the model was not trained here: only a site can speak for its patients.
        """
        self._require_fit()
        record = self.sites_[self.current_site_]
        if record.exemplar_patients is None:
            raise DataError("it is not known whose rows these are", hint="Give patients=")
        if self._witness is None:
            raise NotFittedError(
                "a bundle is exported by the process that trained on the site, right afterwards"
            )
        for value, count in enumerate(record.exemplar_patients):
            if count < self.min_patients:
                raise DataError(
                    f"class {value} has {count} patients behind the exemplars of {record.name!r}",
                    hint=f"A bundle needs {self.min_patients} of each class (min_patients)",
                )
        report: dict[str, Any] = {"performed": False, "overridden": override}
        if audit is None and not override:
            raise DataError("a bundle needs an audit", hint="Give audit=PrivacyAudit()")
        if audit is not None:
            found = audit.report(self._witness)
            report = {"performed": True, **found, "overridden": override and not found["passed"]}
            if not found["passed"] and not override:
                raise DataError(
                    f"the audit does not let {record.name!r} out: {found['reason']}",
                    hint="Release with more noise, or export with override=True and answer for it",
                )
        bundle = SiteBundle(
            parameters=self._json_parameters(),
            features=None if self.features_ is None else self.features_.to_dict(),
            encoder=None if self.encoder_ is None else self.encoder_.to_dict(),
            n_features=self.n_features_in_,
            constants=self._constants,
            theta={n: t.detach().cpu().numpy() for n, t in self.learner_.state_dict().items()},
            precision={n: t.cpu().numpy() for n, t in self.precision_.items()},
            sites=tuple(copy.deepcopy(list(self.sites_.values()))),
            current_site=self.current_site_,
            episodes=dict(self.episodes_),
            adapters={
                n: (a.cpu().numpy(), b.cpu().numpy()) for n, (a, b) in self.adapters_.items()
            },
            audits={**getattr(self, "audits_", {}), record.name: report},
            not_finite=self.not_finite_,
            standards=(self.standards_.centre.numpy(), self.standards_.spread.numpy()),
        )
        self.audits_ = bundle.audits
        return write_bundle(path, bundle, private_key=private_key)

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        *,
        trusted_keys: Sequence[bytes] | None = None,
        **overrides: Any,
    ) -> Self:
        """The model of a bundle, ready for the next site.

        Args:
            path: of the file.
            trusted_keys: public keys of which one must have signed; None takes any bundle that is
                whole.
            overrides: hyper-parameters of the training and release from here on.

        Raises:
            ArtefactError: damaged, newer, or signed by nobody who is trusted.
            IncompatibleRepresentationError: its episodes are of another first layer.
        """
        bundle = read_bundle(path, trusted_keys=trusted_keys)
        fixed = set(overrides) & {
            "features", "horizon", "hidden", "n_knots", "freeze_first_layer", "standardised"
        }  # fmt: skip
        if fixed:
            raise ParameterError(f"{sorted(fixed)[0]} is fixed by the first site")
        known = cls().get_params(deep=False)
        odd = sorted(set(bundle.parameters) - set(known))
        if odd:
            raise ArtefactError(f"{path} names a hyper-parameter that is not known: {odd[0]!r}")
        model = cls(**{**bundle.parameters, **overrides})
        told, encoder = bundle.features, bundle.encoder
        model.features_ = None if told is None else CausalFeatureBuilder.from_dict(told)
        model.encoder_ = None if encoder is None else PiecewiseLinearEncoder.from_dict(encoder)
        model.n_features_in_ = bundle.n_features
        model._constants = bundle.constants
        model.learner_ = bundle.learner()
        model.precision_ = {n: torch.from_numpy(v.copy()) for n, v in bundle.precision.items()}
        centre, spread = bundle.standards
        model.standards_ = Standards(
            torch.from_numpy(centre.copy()), torch.from_numpy(spread.copy())
        )
        model.anchor_ = model._anchor()
        model.sites_ = {s.name: copy.deepcopy(s) for s in bundle.sites}
        model.current_site_ = bundle.current_site
        model.episodes_ = dict(bundle.episodes)
        model.adapters_ = {
            n: (torch.from_numpy(a.copy()), torch.from_numpy(b.copy()))
            for n, (a, b) in bundle.adapters.items()
        }
        model.audits_ = dict(bundle.audits)
        model.not_finite_ = bundle.not_finite
        model._witness = None
        model.is_fitted_ = True
        return model

    def receive(self, bundle: SiteBundle) -> Self:
        """Takes the episodes of another bundle of the same first layer, to rehearse them too.

        With them come the sites' records, adapters, scaling statistics and audits. Intercepts are
        set for the weights here.

        Raises:
            IncompatibleRepresentationError: they are of another first layer.
            ParameterError: a site of this name is known already with other episodes.
        """
        self._require_fit()
        bundle.check_episodes(frozen_hash(self.learner_))
        mine = [r for r in bundle.sites if r.name in bundle.episodes]
        for record in mine:
            theirs, ours = bundle.episodes[record.name], self.episodes_.get(record.name)
            same = ours is not None and (
                np.array_equal(ours.h, theirs.h) and np.array_equal(ours.label, theirs.label)
            )
            if record.name in self.sites_ and not same:
                raise ParameterError(
                    f"the site {record.name!r} is known already, with other episodes"
                )
        tables = {}
        if self.features_ is not None and bundle.features is not None:
            tables = CausalFeatureBuilder.from_dict(bundle.features).sites
        for record in mine:
            name = record.name
            if name in self.sites_:
                continue
            fresh = copy.deepcopy(record)
            self.sites_[name], self.episodes_[name] = fresh, bundle.episodes[name]
            if name in bundle.adapters:
                scale, shift = bundle.adapters[name]
                self.adapters_[name] = (
                    torch.from_numpy(scale.copy()), torch.from_numpy(shift.copy())
                )  # fmt: skip
            if name in tables:
                self._builder().sites[name] = tables[name]
            if name in bundle.audits:
                self.audits_ = {**getattr(self, "audits_", {}), name: bundle.audits[name]}
            label = self.episodes_[name].label
            if 0 < int(label.sum()) < len(label):
                z = self._episode_logits(name)
                fresh.intercept = intercept_for(z, label, fresh.rate) + fresh.episodes_gap
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Without the rows that the audit looks at: a copy or a pickle must not carry them."""
        state = dict(super().__getstate__())
        state.pop("_witness", None)
        return {**state, "_witness": None}

    def _rows(
        self,
        X: Stays | ArrayLike,
        y: ArrayLike | None,
        site: str,
        validation: Stays | tuple[ArrayLike, ArrayLike] | None,
        rows: ArrayLike | None,
        patients: ArrayLike | None,
        sample_weight: ArrayLike | None,
        rate: float | None,
        first: bool,
    ) -> tuple[SiteRows, tuple[NDArray[np.float32], NDArray[np.int8]] | None]:
        weight = None if sample_weight is None else np.asarray(sample_weight, np.float32)
        if not isinstance(X, Stays):
            if y is None:
                raise ParameterError("a matrix of features needs labels: fit_site(X, y, site=...)")
            features, label = checked_rows(X, y)
            who = None if patients is None else np.unique(patients, return_inverse=True)[1]
            for name, values in (("patients", who), ("sample_weight", weight)):
                if values is not None and values.shape != label.shape:
                    raise DataError(f"{name} has {len(values)} values for {len(label)} hours")
            natural = float(label.mean()) if rate is None else float(rate)
            if rows is not None:
                chosen = np.asarray(rows)
                features, label = features[chosen], label[chosen]
                who = None if who is None else who[chosen]
                weight = None if weight is None else weight[chosen]
            if isinstance(validation, Stays):
                raise ParameterError("after training on a matrix, validate on a matrix")
            held = None if validation is None else checked_rows(*validation)
            return SiteRows(features, label, who, weight, natural), held
        stays = X
        if validation is None and self.validation_size > 0 and rows is None and weight is None:
            train, aside = held_out_patients(stays, self.validation_size)
            # A validation part of one class cannot rank; all is trained on then.
            if np.isfinite(aside.onset).any() and np.isfinite(train.onset).any():
                stays, validation = train, aside
        wanted = target(stays, self.horizon)
        if not wanted.at_risk.any():
            raise DataError(f"{site!r} has no hour before an onset")
        kept = wanted.at_risk if rows is None else wanted.at_risk & np.asarray(rows, bool)
        if first:
            builder = CausalFeatureBuilder(self.features, schema=stays.schema)
            self.features_ = builder.fit(stays, kept)
        else:
            builder = self._builder()
            builder.add_site(site, stays, kept)
        features = builder.transform(stays, kept, site=site)
        numbers = np.unique(stays.patients.astype(str), return_inverse=True)[1]
        who = numbers[stays.stay_of_row()][kept]
        natural = float(wanted.label[wanted.at_risk].mean())
        weight = None if weight is None else weight[kept]
        held = None
        if isinstance(validation, Stays):
            other = target(validation, self.horizon)
            held = (
                builder.transform(validation, other.at_risk, site=site),
                other.label[other.at_risk],
            )
        elif validation is not None:
            held = checked_rows(*validation)
        return SiteRows(features, wanted.label[kept], who, weight, natural), held

    def _begin(self, given: SiteRows) -> None:
        """Encoder and untrained net of the first site."""
        features = given.features
        self.encoder_ = None
        if self.n_knots:
            low, high = _common_range(given, self.min_patients)
            encoder = PiecewiseLinearEncoder(self.n_knots).fit(np.clip(features, low, high))
            # Rounded: a quantile can be the very value of one patient.
            knots = [np.unique(np.round(k, 3)) for k in encoder.knots or []]
            encoder.knots, self.encoder_ = knots, encoder
            if self.standardised:
                encoder.standardise(features)
        self.n_features_in_ = features.shape[1]
        flat = features.max(axis=0) == features.min(axis=0)
        self._constants = np.where(flat, features[0], np.nan).astype(np.float32)
        width = features.shape[1] if self.encoder_ is None else self.encoder_.n_outputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.random_state)
            self.learner_ = FeedForwardRiskLearner(self._shape(width))
        self.standards_ = Standards.none(self.learner_.shape.hidden[0])

    def _fresh(self, features: NDArray[np.float32]) -> tuple[str, ...]:
        """Channels, or features of a matrix, that did not vary at the first site but do here."""
        if features.shape[1] != self.n_features_in_:
            raise DataError(
                f"the rows have {features.shape[1]} features, the first site {self.n_features_in_}"
            )
        known = np.isnan(self._constants)
        varies = features.max(axis=0) != features.min(axis=0)
        new = np.flatnonzero(~known & varies)
        if self.features_ is None:
            return tuple(f"feature {i}" for i in new)
        names = (self.features_.names[i].partition(":")[0] for i in new)
        return tuple(dict.fromkeys(names))

    def _masked(self, features: NDArray[np.float32], record: SiteRecord) -> NDArray[np.float32]:
        """Features with new channels as the first site knew them, where they are to be ignored."""
        if self.new_channels != "ignore" or not record.new_channels:
            return features
        return np.where(np.isnan(self._constants), features, self._constants)

    def _train_site(
        self,
        given: SiteRows,
        held: tuple[NDArray[np.float32], NDArray[np.int8]] | None,
        site: str,
        first: bool,
        adapt: bool,
        strategies: Sequence[Strategy],
    ) -> None:
        features = given.features
        if not first and self.new_channels == "ignore":
            known = np.isnan(self._constants)
            features = np.where(known, features, self._constants)
        share = self.positives / (self.positives + self.negatives)
        label = given.label
        count = int(label.sum())
        chance = np.where(label == 1, share / count, (1 - share) / (len(label) - count))
        more: list[Strategy] = list(strategies)
        seed = self.random_state + len(self.sites_)
        if not first:
            if self.ewc_lambda > 0 and self.precision_:
                more.append(ParameterPenalty(self.anchor_, self.precision_, self.ewc_lambda))
            if self.replay_weight > 0 and self.episodes_:
                memories = [
                    TensorExamples({"h": e.hidden(), "label": torch.from_numpy(
                        e.label.astype(np.float32))})
                    for e in self.episodes_.values()
                ]  # fmt: skip
                more.append(
                    RepresentationReplay(
                        memories, weight=self.replay_weight, batch_size=self.replay_batch
                    )
                )
        weight = given.weight
        learner: Learner = self.learner_
        if not first:
            learner = self._net(adapted=adapt)
        examples: HourExamples | TensorExamples
        prepared = held
        if first or not self.freeze_first_layer or adapt:
            examples = HourExamples(features, label, self.encoder_, weight=weight)
            examples.sampling_weights = chance
            if held is not None:
                masked = held[0]
                if not first and self.new_channels == "ignore":
                    masked = np.where(np.isnan(self._constants), masked, self._constants)
                prepared = (masked, held[1])
        else:
            # Behind the frozen layer every hour is encoded once, not once a pass.
            columns = {
                "h": torch.from_numpy(self._hidden(features, None)),
                "label": torch.from_numpy(label.astype(np.float32)),
            }
            if weight is not None:
                columns["weight"] = torch.from_numpy(weight)
            examples = TensorExamples(columns, sampling_weights=chance)
            if held is not None:
                masked = held[0]
                if self.new_channels == "ignore":
                    masked = np.where(np.isnan(self._constants), masked, self._constants)
                prepared = (self._hidden(masked, None), held[1])
        pass_ = max(1, round((len(label) - count) / self.negatives))
        score = None
        if prepared is not None:
            ranked = 0 < int(prepared[1].sum()) < len(prepared[1])
            if ranked or self.episodes_:
                key = "h" if isinstance(examples, TensorExamples) else "x"
                score = self._choice(prepared if ranked else None, key)
        self.result_ = fit(
            learner, examples, strategies=more, validation=score,
            max_steps=max(1, round(self.epochs * pass_)),
            batch_size=self.positives + self.negatives, learning_rate=self._rate(first),
            weight_decay=self.weight_decay, schedule=self.schedule,
            validate_every=self.validate_every or max(1, pass_ // 2),
            patience=self.patience if score is not None else None,
            seed=seed, threads=self.threads, device=self.device,
        )  # fmt: skip
        self.learner_.eval()
        if isinstance(learner, SiteNet):
            learner.hand_back(self.learner_)
            if adapt:
                self.adapters_[site] = (
                    learner.scale.detach().clone(), learner.shift.detach().clone()
                )  # fmt: skip
        elif self.standardised:
            with use_threads(self.threads):
                self.standards_ = Standards.of(self._hidden(features, None))

    def _rate(self, first: bool) -> float:
        """Of learning at a site."""
        if first or not self.freeze_first_layer or self.upper_learning_rate is None:
            return self.learning_rate
        return self.upper_learning_rate

    def _net(self, *, adapted: bool = False) -> SiteNet:
        """The net as a later site trains it."""
        return SiteNet(
            self.learner_, self.standards_, frozen=self.freeze_first_layer, adapted=adapted
        )

    def _anchor(self) -> dict[str, Tensor]:
        parameters = dict(self._net().named_parameters())
        return {n: parameters[n].detach().clone() for n in self.precision_}

    def _choice(self, held: tuple[NDArray[np.float32], NDArray[np.int8]] | None, key: str) -> Any:
        """Minus the mean of the AUROC here and on the episodes received."""
        episodes = [(e.hidden(), e.label) for e in self.episodes_.values()]

        def score(learner: Any) -> float:
            parts = []
            if held is not None:
                parts.append(auroc(_scored(learner, held[0], key, self.encoder_), held[1]))
            if episodes:
                device = next(learner.parameters()).device
                found = [
                    auroc(learner.decode(h.to(device), {}).logit.cpu().numpy(), y)
                    for h, y in episodes
                ]
                parts.append(float(np.mean(found)))
            return -float(np.mean(parts))

        return score

    def _remember(
        self,
        given: SiteRows,
        held: tuple[NDArray[np.float32], NDArray[np.int8]] | None,
        record: SiteRecord,
    ) -> None:
        """Precision, episodes and intercepts after a site."""
        site = record.name
        number = list(self.sites_).index(site)
        rng = np.random.default_rng((self.random_state, number, 11))
        features = self._masked(given.features, record)
        adapter = self.adapters_.get(site)
        with use_threads(self.threads):
            self._propagate(features, given.label, adapter, rng)
            if self.freeze_first_layer:
                self.learner_.first.requires_grad_(False)
            most = min(self.positives_per_site, max(1, self.memory_per_site // 2))
            chosen = exemplars(self.memory_per_site, rng, labels=given.label, positives=most)
            rng.shuffle(chosen)
            hidden = self._hidden(features[chosen], adapter)
            label = given.label[chosen]
            who = None if given.patients is None else given.patients[chosen]
            release = NoRelease() if self.release is None else self.release
            # All of `rng` follows from numbers that a bundle tells: its noise would be no secret.
            seed = self.release_seed
            hiding = np.random.default_rng(None if seed is None else (seed, number))
            out = release.release(hidden, label, who, hiding)
            stored = np.clip(out.h, -65504, 65504).astype(np.float16)
            self.episodes_[site] = Episodes(
                stored, out.label.astype(np.int8), frozen_hash(self.learner_)
            )
            record.release = {**out.told, "seeded": seed is not None}
            if who is not None:
                behind = chosen if (out.exemplar < 0).any() else chosen[out.exemplar]
                record.exemplar_patients = (
                    len(np.unique(given.patients[behind][given.label[behind] == 0])),  # type: ignore[index]
                    len(np.unique(given.patients[behind][given.label[behind] == 1])),  # type: ignore[index]
                )
                self._witness = self._witnesses(
                    given, features, chosen, out.exemplar, stored, out.label, adapter, release,
                    hiding,
                )  # fmt: skip
            base, seen = given.label, features
            if held is not None and 0 < held[1].sum() < len(held[1]):
                seen, base = self._masked(held[0], record), held[1]
            logits = self._site_logits(seen, site)
            record.intercept = intercept_for(logits, base, record.rate)
            if 0 < int(out.label.sum()) < len(out.label):
                # Noise moves the mean risk: what it asks for is told apart while both are known.
                noisy = intercept_for(self._episode_logits(site), out.label, record.rate)
                record.episodes_gap = record.intercept - noisy
            record.metrics = {"validation_auroc": auroc(logits, base)}
            # What was learned here has moved the scale of earlier sites' log-odds, too.
            for name, episode in self.episodes_.items():
                other = self.sites_[name]
                if name == site or not 0 < int(episode.label.sum()) < len(episode.label):
                    continue
                z = self._episode_logits(name)
                other.intercept = intercept_for(z, episode.label, other.rate) + other.episodes_gap
                other.metrics["episodes_auroc_now"] = auroc(z, episode.label)

    def _propagate(
        self,
        features: NDArray[np.float32],
        label: NDArray[np.int8],
        adapter: tuple[Tensor, Tensor] | None,
        rng: np.random.Generator,
    ) -> None:
        some = exemplars(self.fisher_examples, rng, of=len(label))
        truth = torch.from_numpy(label[some].astype(np.float32))
        columns = {"label": truth}
        if self.freeze_first_layer:
            columns["h"] = torch.from_numpy(self._hidden(features[some], adapter))
        else:
            columns["x"] = encoded(features[some], self.encoder_)
        found = diagonal_fisher(self._net(), TensorExamples(columns), outcomes=binary_outcomes)
        self.not_finite_ += found.not_finite
        factor = float(len(label)) if self.fisher_scale == "count" else 1.0
        self.precision_ = {
            n: factor * v + self.gamma * self.precision_.get(n, torch.zeros_like(v))
            for n, v in found.values.items()
        }
        self.anchor_ = self._anchor()

    def _witnesses(
        self,
        given: SiteRows,
        features: NDArray[np.float32],
        chosen: NDArray[np.int64],
        exemplar: NDArray[np.int64],
        stored: NDArray[np.float16],
        stored_label: NDArray[np.int8],
        adapter: tuple[Tensor, Tensor] | None,
        release: Release,
        rng: np.random.Generator,
    ) -> ReleaseWitness:
        """What an audit may look at, at the site only."""
        patients = given.patients
        assert patients is not None
        outside = np.flatnonzero(~np.isin(patients, patients[chosen]))
        if len(outside) > _WITNESSES:
            outside = np.sort(rng.choice(outside, _WITNESSES, replace=False))
        clean = self._hidden(features[outside], adapter) if len(outside) else None
        noisy = None
        linked = not (exemplar < 0).any()
        if clean is not None and linked:
            # Of rows that stand for nobody there are no pairs to attack with, and the others may
            # be too few for prototypes of their own.
            told = release.release(clean, given.label[outside], patients[outside], rng)
            noisy = np.asarray(told.h, np.float32)
            outside, clean = outside[told.exemplar], clean[told.exemplar]
        rows = chosen[exemplar] if linked else chosen
        return ReleaseWitness(
            names=None if self.features_ is None else self.features_.names,
            stored=stored.astype(np.float32),
            stored_rows=features[rows] if linked else None,
            member_rows=features[rows],
            member_hidden=self._hidden(features[rows], adapter),
            member_patients=patients[rows],
            other_rows=features[outside],
            other_hidden=clean,
            other_released=noisy,
            other_patients=patients[outside],
        )

    def _hidden(
        self, features: NDArray[np.float32], adapter: tuple[Tensor, Tensor] | None
    ) -> NDArray[np.float32]:
        """(R, D) representations."""
        out = np.empty((len(features), self.learner_.shape.hidden[0]), np.float32)
        with torch.inference_mode():
            for at in range(0, len(features), _AT_ONCE):
                x = encoded(features[at : at + _AT_ONCE], self.encoder_)
                if adapter is not None:
                    x = x * (1 + adapter[0]) + adapter[1]
                out[at : at + _AT_ONCE] = self.learner_.encode({"x": x}).numpy()
        return out

    def _episode_logits(self, site: str) -> NDArray[np.float64]:
        with torch.inference_mode():
            hidden = self.episodes_[site].hidden()
            return self.learner_.decode(hidden, {}).logit.double().numpy()

    def _site_logits(self, features: NDArray[np.float32], site: str) -> NDArray[np.float64]:
        adapter = self.adapters_.get(site)
        if adapter is None:
            return self._logits(self.learner_, features)
        hidden = torch.from_numpy(self._hidden(features, adapter))
        with torch.inference_mode():
            return self.learner_.decode(hidden, {}).logit.double().numpy()

    def _record(self, site: str) -> SiteRecord:
        if site not in self.sites_:
            raise ParameterError(f"there is no site {site!r}; known are {', '.join(self.sites_)}")
        return self.sites_[site]

    def _json_parameters(self) -> dict[str, Any]:
        told: Mapping[str, Any] = self.get_params(deep=False)
        own = ("release", "release_seed", "threads", "device")
        kept = {k: v for k, v in told.items() if k not in own}
        return {**kept, "hidden": list(self.hidden)}

    def _check_all(self) -> None:
        self._check()
        for name in ("ewc_lambda", "replay_weight"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ParameterError(f"{name} must be a number from 0, not {value}")
        rate = self.upper_learning_rate
        if rate is not None and not (rate > 0 and math.isfinite(rate)):
            raise ParameterError(f"upper_learning_rate must be positive, not {rate}")
        if not 0 <= self.gamma <= 1:
            raise ParameterError(f"gamma must lie in [0, 1], not {self.gamma}")
        if self.fisher_scale not in ("mean", "count"):
            raise ParameterError(f"fisher_scale is 'mean' or 'count', not {self.fisher_scale!r}")
        if self.new_channels not in ("statistics", "adapter", "ignore"):
            raise ParameterError(f"new_channels cannot be {self.new_channels!r}")
        if self.release is not None and not isinstance(self.release, Release):
            raise ParameterError("release needs a method release(h, label, patients, rng)")
        for name in ("fisher_examples", "memory_per_site", "min_patients", "replay_batch"):
            if getattr(self, name) < 1:
                raise ParameterError(f"{name} must be at least 1, not {getattr(self, name)}")
        if len(self.hidden) < 2:
            raise ParameterError("WUPERR needs two layers or more: the first is frozen")


def _common_range(given: SiteRows, least: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(F,) means of the least and of the largest values of so many patients each.

    Knots leave the site: the extremes themselves would be the values of single patients.
    """
    who = np.arange(len(given.label)) if given.patients is None else given.patients
    order = np.argsort(who, kind="stable")
    begins = np.flatnonzero(np.append(True, np.diff(who[order]) != 0))
    ordered = given.features[order]
    low = np.sort(np.minimum.reduceat(ordered, begins), axis=0)[:least].mean(axis=0)
    high = np.sort(np.maximum.reduceat(ordered, begins), axis=0)[-least:].mean(axis=0)
    return low, high


def _scored(
    learner: Any,
    values: NDArray[np.float32],
    key: str,
    encoder: PiecewiseLinearEncoder | None,
) -> NDArray[np.float64]:
    """Log-odds of encoded or plain rows."""
    device = next(learner.parameters()).device
    parts = [np.zeros(0)]
    for at in range(0, len(values), _AT_ONCE):
        part = values[at : at + _AT_ONCE]
        batch = torch.from_numpy(part) if key == "h" else encoded(part, encoder)
        parts.append(learner({key: batch.to(device)}).logit.double().cpu().numpy())
    return np.concatenate(parts)
