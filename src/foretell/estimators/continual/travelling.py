"""What leaves a site and what arrives at the next: deployed nets, bundles, branches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.base import clone
from torch import Tensor

from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.data.clinical.stays import Stays
from foretell.errors import ArtefactError, ParameterError
from foretell.estimators.continual import exchange, settings, warmup
from foretell.estimators.continual.bundle import SiteBundle, read_bundle, write_bundle
from foretell.estimators.continual.carried import Adapter, Carried
from foretell.estimators.continual.rows import Held, matrix_rows, stay_rows
from foretell.estimators.continual.site import Episodes, SiteRecord, SiteRows, Standards
from foretell.estimators.continual.warmup import Warmup
from foretell.estimators.continual.witness import FloatArray, ReleaseAudit, ReleaseWitness
from foretell.estimators.risk import FeedForwardRisk


class TravellingRisk(FeedForwardRisk):
    """A risk net that goes from site to site; how it is trained there is its subclass's."""

    min_patients: int
    warmup_sites: int
    sites_: dict[str, SiteRecord]
    episodes_: dict[str, Episodes]
    adapters_: dict[str, Adapter]
    precision_: dict[str, Tensor]
    anchor_: dict[str, Tensor]
    standards_: Standards
    current_site_: str
    audits_: dict[str, Any]
    not_finite_: int
    _constants: FloatArray
    _witnesses: dict[str, ReleaseWitness | None]
    _warm: Warmup | None

    def _remember(self, given: SiteRows, held: Held | None, record: SiteRecord) -> None:
        raise NotImplementedError

    def deployed(self, site: str | None = None) -> FeedForwardRisk:
        """The model as one site runs it: a plain risk net with its intercept, to save and serve.

        Raises:
            ParameterError: the site has an adapter, which a plain net has no place for.
        """
        self._require_fit()
        record = self._record(self.current_site_ if site is None else site)
        return exchange.deployed(
            self._carried(), record, self.get_params(deep=False), self.features_
        )

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
        warmup.check_over(self.warmup_sites, list(self.sites_.values()))
        # After a warm-up several sites speak for their patients for the first time.
        reports = {
            name: exchange.audited(
                self.sites_[name], self._witnesses.get(name), audit, override=override,
                min_patients=self.min_patients,
            )
            for name in self._witnesses or [self.current_site_]
        }  # fmt: skip
        bundle = exchange.packed(
            self._carried(),
            parameters=settings.travelling(self.get_params(deep=False)),
            builder=self.features_,
            current_site=self.current_site_,
            audits={**getattr(self, "audits_", {}), **reports},
            not_finite=self.not_finite_,
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
            overrides: hyper-parameters of the training and release from here on. How
                representations are released (``release``, ``release_seed``) is never taken from
                the file, and ``min_patients`` only where it asks for more than usual.

        Raises:
            ArtefactError: damaged, newer, or signed by nobody who is trusted.
            IncompatibleRepresentationError: its episodes are of another first layer.
        """
        bundle = read_bundle(path, trusted_keys=trusted_keys)
        settings.check_overrides(overrides)
        try:
            told = settings.own_settings(bundle.parameters, overrides, cls().get_params(deep=False))
        except ParameterError as error:
            raise ArtefactError(f"{path} is no bundle to go on from: {error}") from error
        model = cls(**told)
        table = bundle.features
        features = None if table is None else CausalFeatureBuilder.from_dict(table)
        model._go_on(exchange.unpacked(bundle), features, bundle.current_site)
        model.audits_, model.not_finite_ = dict(bundle.audits), bundle.not_finite
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
        added = exchange.admit(self._carried(), bundle, self.features_)
        audits = {n: bundle.audits[n] for n in added if n in bundle.audits}
        if audits:
            self.audits_ = {**getattr(self, "audits_", {}), **audits}
        return self

    def branch(
        self,
        X: Stays | ArrayLike,
        y: ArrayLike | None = None,
        *,
        validation: Stays | tuple[ArrayLike, ArrayLike] | None = None,
        rows: ArrayLike | None = None,
        patients: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        rate: float | None = None,
        **changed: Any,
    ) -> Self:
        """A model of other settings that goes on from the first site as it was trained here.

        The net is copied, not trained again; what is kept of the site (precision, episodes,
        intercept) is made anew, as the new settings say. So variants are compared from one start.

        Args:
            X: what the first site was trained on, as for :meth:`fit_site`.
            y: (R,) labels where X is a matrix.
            validation: see :meth:`fit_site`, as the others.
            rows: (R,) mask of further restrictions.
            patients: (R,) whom the rows of a matrix belong to.
            sample_weight: (R,) of each hour.
            rate: share of positive hours at the site, where a matrix is a subsample.
            changed: hyper-parameters that are others.

        Raises:
            NotFittedError: before the first site.
            ParameterError: another site came after it, it is part of a warm-up, or a
                hyper-parameter is changed that has shaped the net.
        """
        self._require_fit()
        site = self.current_site_
        if list(self.sites_) != [site] or self._warm is not None:
            raise ParameterError(
                f"a model is branched after its first site, not after {', '.join(self.sites_)}"
            )
        settings.check_overrides(changed.keys() - {"freeze_first_layer"})
        model: Self = clone(self).set_params(**changed)
        settings.check_settings(model.get_params(deep=False))
        given, held, features = self._given(
            X, y, site=site, first=False, validation=validation, rows=rows, patients=patients,
            sample_weight=sample_weight, rate=rate,
        )  # fmt: skip
        learner = copy.deepcopy(self.learner_).requires_grad_(True)
        sites = copy.deepcopy(self.sites_)
        model._go_on(
            Carried(learner, self.encoder_, self._constants, self.standards_, {}, {}, sites, {},
                    {}), features, site,
        )  # fmt: skip
        model._remember(given, held, sites[site])
        return model

    def __getstate__(self) -> dict[str, Any]:
        """Without rows, of the audit or a warm-up: a copy or a pickle must not carry them."""
        return {**super().__getstate__(), "_witnesses": {}, "_warm": None}

    @property
    def _witness(self) -> ReleaseWitness | None:
        """Of the site that was trained last."""
        return self._witnesses.get(self.current_site_)

    def _go_on(self, carried: Carried, features: CausalFeatureBuilder | None, site: str) -> None:
        """Becomes a model that was trained on ``site`` last."""
        self.features_, self.encoder_ = features, carried.encoder
        self._constants, self.n_features_in_ = carried.constants, len(carried.constants)
        self.learner_, self.standards_ = carried.learner, carried.standards
        self.precision_, self.anchor_ = carried.precision, carried.anchor
        self.sites_, self.current_site_ = carried.sites, site
        self.episodes_, self.adapters_ = carried.episodes, carried.adapters
        self.not_finite_, self._witnesses, self._warm = 0, {}, None
        self.is_fitted_ = True

    def _carried(self) -> Carried:
        """What other modules work on: the net itself and the very mappings, not copies."""
        return Carried(
            self.learner_, self.encoder_, self._constants, self.standards_, self.precision_,
            self.anchor_, self.sites_, self.episodes_, self.adapters_,
        )  # fmt: skip

    def _record(self, site: str) -> SiteRecord:
        if site not in self.sites_:
            raise ParameterError(f"there is no site {site!r}; known are {', '.join(self.sites_)}")
        return self.sites_[site]

    def _given(
        self, X: Stays | ArrayLike, y: ArrayLike | None, *, site: str, first: bool,
        validation: Stays | tuple[ArrayLike, ArrayLike] | None, rows: ArrayLike | None,
        patients: ArrayLike | None, sample_weight: ArrayLike | None, rate: float | None,
    ) -> tuple[SiteRows, Held | None, CausalFeatureBuilder | None]:  # fmt: skip
        """Rows to train on, rows to choose weights by, and the features of stays."""
        if isinstance(X, Stays):
            return stay_rows(
                X, site=site, builder=self.features if first else self._builder(),
                horizon=self.horizon, validation=validation, rows=rows, sample_weight=sample_weight,
                validation_size=self.validation_size,
            )  # fmt: skip
        given, held = matrix_rows(
            X, y, validation=validation, rows=rows, patients=patients,
            sample_weight=sample_weight, rate=rate,
        )  # fmt: skip
        return given, held, self.features_
