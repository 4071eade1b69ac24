"""What is carried from site to site, and what its net makes of rows and of stored episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.errors import ParameterError
from foretell.estimators.continual.settings import NewChannels
from foretell.estimators.continual.site import Episodes, SiteNet, SiteRecord, Standards
from foretell.learners.contract import Batch
from foretell.learners.risk.asking import asked
from foretell.learners.risk.feed_forward import FeedForwardRiskLearner

Adapter = tuple[Tensor, Tensor]
"""What 1 plus it the encoded inputs of a site are multiplied by, and what is added to them."""


@dataclass(frozen=True, eq=False)
class Carried:
    """The net and what is remembered of the sites it was trained on.

    Attributes:
        learner: the net.
        encoder: of the features, or None.
        constants: (F,) values of features that did not vary at the first site, else NaN.
        standards: of the units of the first layer.
        precision: Omega by parameter.
        anchor: theta* by parameter, of the standardised net as ``precision``.
        sites: records in the order of training.
        episodes: released representations by site.
        adapters: by site.
    """

    learner: FeedForwardRiskLearner
    encoder: PiecewiseLinearEncoder | None
    constants: NDArray[np.float32]
    standards: Standards
    precision: dict[str, Tensor]
    anchor: dict[str, Tensor]
    sites: dict[str, SiteRecord]
    episodes: dict[str, Episodes]
    adapters: dict[str, Adapter]

    def net(self, *, frozen: bool, adapted: bool = False) -> SiteNet:
        """The net as a later site trains it."""
        return SiteNet(self.learner, self.standards, frozen=frozen, adapted=adapted)

    def as_first(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(R, F) features, those that did not vary at the first site as they were there."""
        return np.where(np.isnan(self.constants), features, self.constants)

    def seen(
        self, features: NDArray[np.float32], record: SiteRecord, new_channels: NewChannels
    ) -> NDArray[np.float32]:
        """(R, F) features of a site as the net sees them: new channels may be ignored."""
        if new_channels != "ignore" or not record.new_channels:
            return features
        return self.as_first(features)

    def hidden(
        self, features: NDArray[np.float32], adapter: Adapter | None = None
    ) -> NDArray[np.float32]:
        """(R, D) representations."""

        def encode(batch: Batch) -> Tensor:
            x = batch["x"]
            if adapter is not None:
                x = x * (1 + adapter[0]) + adapter[1]
            return self.learner.encode({"x": x})

        return asked(self.learner, features, encode, self.encoder)

    def logits(self, features: NDArray[np.float32], site: str) -> NDArray[np.float64]:
        """(R,) log-odds at a site, without its intercept.

        Raises:
            ParameterError: the features have another shape than those trained on.
        """
        if features.ndim != 2 or features.shape[1] != len(self.constants):
            raise ParameterError(
                f"features must be (R, {len(self.constants)}), not {features.shape}"
            )
        adapter = self.adapters.get(site)
        if adapter is None:
            return row_logits(self.learner, features, "x", self.encoder)
        hidden = torch.from_numpy(self.hidden(features, adapter))
        with torch.inference_mode():
            return self.learner.decode(hidden, {}).logit.double().numpy()

    def episode_logits(self, site: str) -> NDArray[np.float64]:
        """(M,) log-odds of a site's stored representations."""
        with torch.inference_mode():
            hidden = self.episodes[site].hidden()
            return self.learner.decode(hidden, {}).logit.double().numpy()


def anchor_of(net: SiteNet, names: dict[str, Any]) -> dict[str, Tensor]:
    """Copies of the parameters of these names."""
    parameters = dict(net.named_parameters())
    return {n: parameters[n].detach().clone() for n in names}


def row_logits(
    learner: Any,
    values: NDArray[np.float32],
    key: str,
    encoder: PiecewiseLinearEncoder | None,
) -> NDArray[np.float64]:
    """(R,) log-odds of features (``key="x"``) or of representations (``"h"``)."""
    return asked(
        learner, values, lambda batch: learner(batch).logit.double(),
        encoder if key == "x" else None, key=key,
    )  # fmt: skip
