"""What a response model predicts: probabilities of labels, all at once or event by event."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner


class Response(NamedTuple):
    """Prediction of a response model.

    Attributes:
        log_probabilities: ``(B, K)`` of each label.
    """

    log_probabilities: Tensor


class ResponseNet(Learner):
    """A trunk and a head over labels: binary, or a funnel's.

    Labels of a funnel are none, engaged, converted and, where a conversion needs no engagement,
    converted without engagement. Its score is the cross entropy of batch key ``label`` (B,), in
    nats.

    Args:
        trunk: maps a batch to an encoding of width ``trunk.out``.
        labels: number of labels K; 2 has one logit, more have a softmax.

    Raises:
        ParameterError: fewer than two labels.
    """

    def __init__(self, trunk: nn.Module, labels: int = 2) -> None:
        super().__init__()
        if labels < 2:
            raise ParameterError(f"a response has at least 2 labels, not {labels}")
        self.trunk, self.labels = trunk, labels
        self.head = nn.Linear(int(trunk.out), 1 if labels == 2 else labels)  # type: ignore[arg-type]

    def encode(self, batch: Batch) -> Tensor:
        """Encoding ``(B, trunk.out)``."""
        encoding: Tensor = self.trunk(batch)
        return encoding

    def decode(self, encoding: Tensor, batch: Batch) -> Response:
        """Log-probabilities ``(B, K)``."""
        logits = self.head(encoding)
        if self.labels == 2:
            return Response(F.logsigmoid(torch.cat([-logits, logits], 1)))
        return Response(F.log_softmax(logits, 1))

    def score(self, output: Response, batch: Batch) -> Tensor:
        """Cross entropy ``(B,)`` of ``label``."""
        return -output.log_probabilities.gather(1, batch["label"][:, None])[:, 0]


class FunnelNet(ResponseNet):
    """Labels of a funnel as a product: does it engage, and does what engaged convert?

    The same K labels as the softmax's, ``P_2 = P(E | x) P(Y | E, x)`` (Ma et al. 2018). Engagement
    has more examples and matures sooner; here its part learns at its own pace, undisturbed by the
    conversions'. A fourth label, converted without engagement, is a part of those not engaged.

    Args:
        trunk: maps a batch to an encoding of width ``trunk.out``.
        labels: 3, or 4 where a conversion needs no engagement.
    """

    def __init__(self, trunk: nn.Module, labels: int = 3) -> None:
        if labels not in (3, 4):
            raise ParameterError(f"a funnel has 3 or 4 labels, not {labels}")
        super().__init__(trunk, labels)
        self.head = nn.Linear(int(trunk.out), labels - 1)  # type: ignore[arg-type]

    def decode(self, encoding: Tensor, batch: Batch) -> Response:
        """Log-probabilities ``(B, K)``."""
        logits = self.head(encoding)
        yes, no = F.logsigmoid(logits), F.logsigmoid(-logits)
        none, rest = no[:, 0], []
        if self.labels == 4:
            none, rest = no[:, 0] + no[:, 2], [no[:, 0] + yes[:, 2]]
        engaged = [yes[:, 0] + no[:, 1], yes[:, 0] + yes[:, 1]]
        return Response(torch.stack([none, *engaged, *rest], 1))


class TwoWindowNet(ResponseNet):
    """Conversions within the waiting time and after it, each with a head (Bi-DEFUSE).

    The four columns are: not within, within, not after, after; their sum of the second and the
    fourth is the probability of a conversion. ``label`` names the column that is scored.
    """

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__(trunk, 4)
        self.head = nn.Linear(int(trunk.out), 2)  # type: ignore[arg-type]

    def decode(self, encoding: Tensor, batch: Batch) -> Response:
        """Log-probabilities ``(B, 4)`` of two yes-or-no events."""
        logits = self.head(encoding)
        signs = torch.tensor([-1.0, 1.0], dtype=logits.dtype, device=logits.device)
        return Response(F.logsigmoid((logits[:, :, None] * signs).flatten(1)))


class Events(NamedTuple):
    """Prediction of an event model.

    Attributes:
        logits: ``(B, H)``, one for each event.
    """

    logits: Tensor


class EventNet(Learner):
    """A trunk with one sigmoid for each of several events, of which a row may know only some.

    This one shape serves every auxiliary of delayed feedback: the two heads of ES-DFM (delayed
    positive; real negative among the unconverted), finality classifiers (one for each label), and
    a delay's hazards (one for each interval, known to rows still at risk). Batch keys ``target``
    ``(B, H)`` and ``known`` ``(B, H)``; the score is the sum over known events, in nats.

    Args:
        trunk: maps a batch to an encoding of width ``trunk.out``.
        events: names of the events.
    """

    def __init__(self, trunk: nn.Module, events: tuple[str, ...]) -> None:
        super().__init__()
        self.trunk, self.events = trunk, tuple(events)
        self.head = nn.Linear(int(trunk.out), len(events))  # type: ignore[arg-type]

    def encode(self, batch: Batch) -> Tensor:
        """Encoding ``(B, trunk.out)``."""
        encoding: Tensor = self.trunk(batch)
        return encoding

    def decode(self, encoding: Tensor, batch: Batch) -> Events:
        """Logits ``(B, H)``."""
        return Events(self.head(encoding))

    def score(self, output: Events, batch: Batch) -> Tensor:
        """Sum ``(B,)`` of the binary cross entropies of the known events."""
        losses = F.binary_cross_entropy_with_logits(
            output.logits, batch["target"].to(output.logits.dtype), reduction="none"
        )
        return (losses * batch["known"].to(losses.dtype)).sum(1)
