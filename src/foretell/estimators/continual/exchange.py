"""Between a model and the bundle that leaves its site: audited going out, checked coming in."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.errors import DataError, NotFittedError, ParameterError
from foretell.estimators.continual.bundle import SiteBundle
from foretell.estimators.continual.carried import Adapter, Carried, anchor_of
from foretell.estimators.continual.memory import reset_intercept
from foretell.estimators.continual.site import SiteRecord, Standards, frozen_hash
from foretell.estimators.continual.witness import ReleaseAudit, ReleaseWitness
from foretell.estimators.risk import FeedForwardRisk


def audited(
    record: SiteRecord,
    witness: ReleaseWitness | None,
    audit: ReleaseAudit | None,
    *,
    override: bool,
    min_patients: int,
) -> dict[str, Any]:
    """The report of a site's audit, JSON values, where its episodes may leave.

    Raises:
        DataError: too few patients of a class, or patients are not known, or there is no audit, or
            it found more than it allows.
        NotFittedError: there is no witness.
    """
    if record.exemplar_patients is None:
        raise DataError("it is not known whose rows these are", hint="Give patients=")
    if witness is None:
        raise NotFittedError(
            "a bundle is exported by the process that trained on the site, right afterwards"
        )
    for value, count in enumerate(record.exemplar_patients):
        if count < min_patients:
            raise DataError(
                f"class {value} has {count} patients behind the exemplars of {record.name!r}",
                hint=f"A bundle needs {min_patients} of each class (min_patients)",
            )
    if audit is None:
        if not override:
            raise DataError("a bundle needs an audit", hint="Give audit=PrivacyAudit()")
        return {"performed": False, "overridden": override}
    found = audit.report(witness)
    if not found["passed"] and not override:
        raise DataError(
            f"the audit does not let {record.name!r} out: {found['reason']}",
            hint=f"{found.get('remedy', 'Release with more noise')}. Or export with override=True "
            "and answer for it",
        )
    return {"performed": True, **found, "overridden": override and not found["passed"]}


def packed(
    carried: Carried,
    *,
    parameters: dict[str, Any],
    builder: CausalFeatureBuilder | None,
    current_site: str,
    audits: dict[str, dict[str, Any]],
    not_finite: int,
) -> SiteBundle:
    """The bundle of a model."""
    return SiteBundle(
        parameters=parameters,
        features=None if builder is None else builder.to_dict(),
        encoder=None if carried.encoder is None else carried.encoder.to_dict(),
        n_features=len(carried.constants),
        constants=carried.constants,
        theta={n: t.detach().cpu().numpy() for n, t in carried.learner.state_dict().items()},
        precision={n: t.cpu().numpy() for n, t in carried.precision.items()},
        sites=tuple(copy.deepcopy(list(carried.sites.values()))),
        current_site=current_site,
        episodes=dict(carried.episodes),
        adapters={n: (a.cpu().numpy(), b.cpu().numpy()) for n, (a, b) in carried.adapters.items()},
        audits=audits,
        not_finite=not_finite,
        standards=(carried.standards.centre.numpy(), carried.standards.spread.numpy()),
    )


def unpacked(bundle: SiteBundle) -> Carried:
    """What a bundle carries; arrays are copied."""
    learner, standards = bundle.learner(), Standards(*_tensors(bundle.standards))
    told = bundle.encoder
    carried = Carried(
        learner=learner,
        encoder=None if told is None else PiecewiseLinearEncoder.from_dict(told),
        constants=bundle.constants,
        standards=standards,
        precision={n: torch.from_numpy(v.copy()) for n, v in bundle.precision.items()},
        anchor={},
        sites={s.name: copy.deepcopy(s) for s in bundle.sites},
        episodes=dict(bundle.episodes),
        adapters={n: _tensors(pair) for n, pair in bundle.adapters.items()},
    )
    net = carried.net(frozen=bundle.parameters["freeze_first_layer"])
    carried.anchor.update(anchor_of(net, carried.precision))
    return carried


def admit(carried: Carried, bundle: SiteBundle, builder: CausalFeatureBuilder | None) -> list[str]:
    """Adds a bundle's sites with episodes that are not known yet, and tells their names.

    Intercepts are set for the net of ``carried``; ``builder`` learns the sites' scales.

    Raises:
        IncompatibleRepresentationError: they are of another first layer.
        ParameterError: a site of this name is known already with other episodes; nothing is added.
    """
    bundle.check_episodes(frozen_hash(carried.learner))
    mine = [r for r in bundle.sites if r.name in bundle.episodes]
    for record in mine:
        theirs, ours = bundle.episodes[record.name], carried.episodes.get(record.name)
        same = ours is not None and (
            np.array_equal(ours.h, theirs.h) and np.array_equal(ours.label, theirs.label)
        )
        if record.name in carried.sites and not same:
            raise ParameterError(f"the site {record.name!r} is known already, with other episodes")
    tables = {}
    if builder is not None and bundle.features is not None:
        tables = CausalFeatureBuilder.from_dict(bundle.features).sites
    added = []
    for record in mine:
        name = record.name
        if name in carried.sites:
            continue
        fresh = copy.deepcopy(record)
        carried.sites[name], carried.episodes[name] = fresh, bundle.episodes[name]
        if name in bundle.adapters:
            carried.adapters[name] = _tensors(bundle.adapters[name])
        if builder is not None and name in tables:
            builder.sites[name] = tables[name]
        reset_intercept(carried, fresh)
        added.append(name)
    return added


def deployed(
    carried: Carried,
    record: SiteRecord,
    parameters: Mapping[str, Any],
    builder: CausalFeatureBuilder | None,
) -> FeedForwardRisk:
    """A plain risk net as one site runs it.

    Raises:
        ParameterError: the site has an adapter, which a plain net has no place for.
    """
    if record.name in carried.adapters:
        raise ParameterError(f"{record.name!r} has an adapter: predict with this model")
    known = FeedForwardRisk().get_params(deep=False)
    plain = FeedForwardRisk(**{k: v for k, v in parameters.items() if k in known})
    plain.features_, plain.encoder_ = copy.deepcopy(builder), carried.encoder
    if plain.features_ is not None and record.name in plain.features_.sites:
        plain.features_.statistics = plain.features_.sites[record.name]
    plain.learner_ = copy.deepcopy(carried.learner).requires_grad_(True)
    plain.n_features_in_, plain.offset_ = len(carried.constants), record.intercept
    plain.privacy_, plain.is_fitted_ = None, True
    return plain


def _tensors(pair: tuple[NDArray[np.float32], NDArray[np.float32]]) -> Adapter:
    return torch.from_numpy(pair[0].copy()), torch.from_numpy(pair[1].copy())
