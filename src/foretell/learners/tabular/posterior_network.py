"""Posterior networks: a classifier that knows how much it has seen of what it is asked about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from foretell.errors import ParameterError
from foretell.learners.contract import Batch, Learner
from foretell.learners.tabular.dirichlet import dirichlet_entropy, uncertain_cross_entropy
from foretell.learners.tabular.radial_flow import RadialFlow

LOG_LIMIT = 30.0
"""Log densities and log evidences are held within plus and minus this: exp stays finite."""

VARIANTS = ("per_class", "single")


class Posterior(NamedTuple):
    """What a posterior network says of each example.

    Attributes:
        concentration: ``(B, C)`` alpha of the Dirichlet distribution of the class probabilities.
        evidence: ``(B, C)`` what was added to the prior's ones: alpha - 1.
    """

    concentration: Tensor
    evidence: Tensor


class PosteriorNetwork(Learner):
    """Densities in a learned space, turned into evidence for each class.

    A trunk and a linear layer map examples to a small latent space, normalised by batch. There are
    two ways on:

    - ``per_class`` (PostNet, Charpentier, Zuegner and Guennemann 2020, eq. 5 and 6): one radial
      flow a class, ``alpha_c = 1 + N_c p(z | c)`` with the classes' counts ``N_c``.
    - ``single`` (NatPN, Charpentier et al. 2022, eq. 6 and 7): one flow for all, whose density
      gives the evidence ``n = p(z) (4 pi)^(H/2)``, and a linear layer with softmax ``chi``, so
      that ``alpha = 1 + n chi``.

    Both are trained on the expected cross-entropy under the Dirichlet distribution minus a small
    multiple of its entropy. Where the training data are thin so is the density, and ``alpha``
    falls back to the uniform prior of ones. That evidence is a by-product of minimising a loss,
    not a calibrated posterior (Bengs, Huellermeier and Waegeman 2022): look at the reliability
    of what it yields before relying on it.

    Its score reads batch key ``label`` ``(B,)``, class numbers.

    Args:
        trunk: maps a batch to an encoding of width ``trunk.out``.
        class_counts: ``(C,)`` weight of each class among the training examples.
        latent_size: H of the latent space.
        flow_layers: radial layers a flow.
        variant: ``per_class`` or ``single``.
        entropy_weight: of the entropy in the loss, per nat.
    """

    def __init__(
        self,
        trunk: nn.Module,
        class_counts: Sequence[float],
        *,
        latent_size: int = 6,
        flow_layers: int = 8,
        variant: str = "per_class",
        entropy_weight: float = 1e-5,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ParameterError(f"variant must be one of {', '.join(VARIANTS)}, not {variant!r}")
        self.trunk, self.variant, self.entropy_weight = trunk, variant, entropy_weight
        self.latent = nn.Linear(int(trunk.out), latent_size)  # type: ignore[arg-type]
        self.normalise = nn.BatchNorm1d(latent_size)
        classes = len(class_counts)
        self.flow = RadialFlow(latent_size, flow_layers, classes if variant == "per_class" else 1)
        self.chi = nn.Linear(latent_size, classes) if variant == "single" else None
        self.class_counts: Tensor
        self.sampling_rates: Tensor
        counts = torch.as_tensor(class_counts, dtype=torch.get_default_dtype())
        self.register_buffer("class_counts", counts)
        self.register_buffer("sampling_rates", torch.ones_like(counts))

    def encode(self, batch: Batch) -> Tensor:
        """Latent points ``(B, H)``."""
        z: Tensor = self.normalise(self.latent(self.trunk(batch)))
        return z

    def decode(self, encoding: Tensor, batch: Batch) -> Posterior:
        """Concentrations under the class frequencies of the training examples."""
        return self._posterior(encoding, torch.ones_like(self.sampling_rates))

    def population(self, encoding: Tensor) -> Posterior:
        """Concentrations under the frequencies before classes were thinned.

        With ``sampling_rates`` ``(C,)``, the share of each class that was kept for training,
        ``N_c`` becomes ``N_c / rate_c``; in the variant ``single`` the odds of ``chi`` do.
        """
        return self._posterior(encoding, self.sampling_rates)

    def score(self, output: Posterior, batch: Batch) -> Tensor:
        """Expected cross-entropy less ``entropy_weight`` times the entropy, ``(B,)`` in nats."""
        alpha = output.concentration
        entropy = dirichlet_entropy(alpha)
        return uncertain_cross_entropy(alpha, batch["label"]) - self.entropy_weight * entropy

    def _posterior(self, z: Tensor, rates: Tensor) -> Posterior:
        log_density = self.flow.log_prob(z)
        if self.chi is None:
            density = log_density.clamp(-LOG_LIMIT, LOG_LIMIT).exp()
            evidence = self.class_counts / rates * density
        else:
            budget = 0.5 * math.log(4 * math.pi) * z.shape[-1]
            total = (log_density + budget).clamp(-LOG_LIMIT, LOG_LIMIT).exp()
            evidence = total * torch.softmax(self.chi(z) - torch.log(rates), dim=-1)
        return Posterior(1.0 + evidence, evidence)
