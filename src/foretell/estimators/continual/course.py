"""The training of one site: its examples, what holds on to earlier ones, how weights are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from foretell.estimators.continual.carried import Adapter, Carried, row_logits
from foretell.estimators.continual.rows import Held
from foretell.estimators.continual.settings import Course
from foretell.estimators.continual.site import SiteNet, SiteRows, Standards
from foretell.learners.contract import Learner
from foretell.learners.risk.examples import HourExamples
from foretell.learners.risk.ranking import auroc
from foretell.training import FitResult, Strategy, TensorExamples, fit, use_threads
from foretell.training.continual import RepresentationReplay
from foretell.training.penalty import ParameterPenalty


class Trained(NamedTuple):
    """What came of it, beside the weights.

    Attributes:
        result: of the training.
        adapter: the site's, or None.
        standards: of the units of the first layer.
    """

    result: FitResult
    adapter: Adapter | None
    standards: Standards


def train_site(
    carried: Carried,
    course: Course,
    given: SiteRows,
    held: Held | None,
    *,
    first: bool,
    adapt: bool,
    strategies: Sequence[Strategy] = (),
) -> Trained:
    """Trains ``carried.learner`` in place on the rows of a site.

    Args:
        carried: what is known of earlier sites.
        course: how.
        given: hours of both classes.
        held: hours to choose weights by.
        first: whether the whole net is trained.
        adapt: whether the site gets an adapter.
        strategies: further ones.
    """
    features = given.features
    if not first and course.new_channels == "ignore":
        features = carried.as_first(features)
        held = None if held is None else (carried.as_first(held[0]), held[1])
    label = given.label
    count = int(label.sum())
    share = course.positives / (course.positives + course.negatives)
    chance = np.where(label == 1, share / count, (1 - share) / (len(label) - count))
    learner: Learner = carried.learner
    more = list(strategies)
    if not first:
        learner = carried.net(frozen=course.freeze_first_layer, adapted=adapt)
        more += _holding_on(carried, course)
    examples: HourExamples | TensorExamples
    key = "x"
    if first or not course.freeze_first_layer or adapt:
        examples = HourExamples(features, label, carried.encoder, weight=given.weight)
        examples.sampling_weights = chance
    else:
        # Behind the frozen layer every hour is encoded once, not once a pass.
        key = "h"
        columns = {
            "h": torch.from_numpy(carried.hidden(features)),
            "label": torch.from_numpy(label.astype(np.float32)),
        }
        if given.weight is not None:
            columns["weight"] = torch.from_numpy(given.weight)
        examples = TensorExamples(columns, sampling_weights=chance)
        held = None if held is None else (carried.hidden(held[0]), held[1])
    score = _choice(carried, held, key)
    pass_ = max(1, round((len(label) - count) / course.negatives))
    result = fit(
        learner, examples, strategies=more, validation=score,
        max_steps=max(1, round(course.epochs * pass_)),
        batch_size=course.positives + course.negatives, learning_rate=course.rate(first),
        weight_decay=course.weight_decay, schedule=course.schedule,
        validate_every=course.validate_every or max(1, pass_ // 2),
        patience=course.patience if score is not None else None,
        seed=course.random_state + len(carried.sites), threads=course.threads,
        device=course.device,
    )  # fmt: skip
    carried.learner.eval()
    adapter, standards = None, carried.standards
    if isinstance(learner, SiteNet):
        learner.hand_back(carried.learner)
        if adapt:
            adapter = (learner.scale.detach().clone(), learner.shift.detach().clone())
    elif course.standardised:
        with use_threads(course.threads):
            standards = Standards.of(carried.hidden(features))
    return Trained(result, adapter, standards)


def _holding_on(carried: Carried, course: Course) -> list[Strategy]:
    """The penalty and the replay, where they count."""
    found: list[Strategy] = []
    if course.ewc_lambda > 0 and carried.precision:
        found.append(ParameterPenalty(carried.anchor, carried.precision, course.ewc_lambda))
    if course.replay_weight > 0 and carried.episodes:
        memories = [
            TensorExamples({"h": e.hidden(), "label": torch.from_numpy(e.label.astype(np.float32))})
            for e in carried.episodes.values()
        ]
        found.append(
            RepresentationReplay(
                memories, weight=course.replay_weight, batch_size=course.replay_batch
            )
        )
    return found


def _choice(carried: Carried, held: Held | None, key: str) -> Any:
    """Minus the mean of the AUROC here and on the episodes received; None where there is neither.

    A validation part of one class cannot rank, nor can such episodes: they are left out.
    """
    if held is None:
        return None
    ranked = 0 < int(held[1].sum()) < len(held[1])
    episodes = [
        (e.hidden(), e.label)
        for e in carried.episodes.values()
        if 0 < int(e.label.sum()) < len(e.label)
    ]
    if not ranked and not episodes:
        return None

    def decoded(learner: Any, hidden: torch.Tensor) -> NDArray[np.float32]:
        device = next(learner.parameters()).device
        return learner.decode(hidden.to(device), {}).logit.cpu().numpy()

    def score(learner: Any) -> float:
        parts = []
        if ranked:
            parts.append(auroc(row_logits(learner, held[0], key, carried.encoder), held[1]))
        if episodes:
            parts.append(float(np.mean([auroc(decoded(learner, h), y) for h, y in episodes])))
        return -float(np.mean(parts))

    return score
