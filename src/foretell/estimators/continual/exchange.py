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
from foretell.estimators.continual.site import Episodes, SiteRecord, Standards
from foretell.estimators.continual.witness import ReleaseAudit, ReleaseWitness


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
            hint="Release with more noise, or export with override=True and answer for it",
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


def newcomers(
    bundle: SiteBundle, sites: Mapping[str, SiteRecord], episodes: Mapping[str, Episodes]
) -> list[SiteRecord]:
    """Copies of the records of a bundle's sites with episodes that are not known yet.

    Raises:
        ParameterError: a site of this name is known already with other episodes.
    """
    found = []
    for record in bundle.sites:
        theirs, ours = bundle.episodes.get(record.name), episodes.get(record.name)
        if theirs is None:
            continue
        if record.name not in sites:
            found.append(copy.deepcopy(record))
            continue
        same = ours is not None and (
            np.array_equal(ours.h, theirs.h) and np.array_equal(ours.label, theirs.label)
        )
        if not same:
            raise ParameterError(f"the site {record.name!r} is known already, with other episodes")
    return found


def received(
    bundle: SiteBundle, name: str
) -> tuple[Episodes, Adapter | None, dict[str, Any] | None]:
    """Episodes, adapter and audit of one of a bundle's sites."""
    pair = bundle.adapters.get(name)
    return bundle.episodes[name], None if pair is None else _tensors(pair), bundle.audits.get(name)


def _tensors(pair: tuple[NDArray[np.float32], NDArray[np.float32]]) -> Adapter:
    return torch.from_numpy(pair[0].copy()), torch.from_numpy(pair[1].copy())
