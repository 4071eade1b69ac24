from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from foretell.errors import ParameterError
from foretell.learners.tabular.dirichlet import dirichlet_entropy, uncertain_cross_entropy
from foretell.learners.tabular.posterior_network import PosteriorNetwork
from foretell.learners.tabular.trunk import Trunk
from foretell.training import TensorExamples, fit


def test_entropy_is_scipys():
    alpha = np.array([[0.3, 0.9], [1.0, 1.0], [5.0, 2.0], [40.0, 0.5]])
    expected = [stats.dirichlet(row).entropy() for row in alpha]
    assert dirichlet_entropy(torch.tensor(alpha)).numpy() == pytest.approx(expected, abs=1e-10)
    three = np.array([0.5, 2.0, 7.0])
    found = dirichlet_entropy(torch.tensor(three)[None]).item()
    assert found == pytest.approx(stats.dirichlet(three).entropy(), abs=1e-10)


def test_entropy_is_not_monotone_in_the_evidence_below_one():
    entropy = dirichlet_entropy(torch.tensor([[0.2, 0.2], [0.6, 0.6], [1.0, 1.0], [3.0, 3.0]]))
    assert entropy[0] < entropy[1] < entropy[2] > entropy[3]


@pytest.mark.parametrize("alpha", [(1.5, 3.0), (0.7, 12.0), (2.0, 5.0, 1.0)])
def test_uncertain_cross_entropy_is_the_monte_carlo_mean(alpha):
    draws = np.random.default_rng(0).dirichlet(alpha, 200_000)
    for c in range(len(alpha)):
        losses = -np.log(draws[:, c])
        found = uncertain_cross_entropy(torch.tensor([alpha]), torch.tensor([c])).item()
        assert found == pytest.approx(losses.mean(), abs=5 * losses.std() / np.sqrt(len(losses)))
    shares = torch.full((1, len(alpha)), 1 / len(alpha))
    mean = np.mean(
        [
            uncertain_cross_entropy(torch.tensor([alpha]), torch.tensor([c])).item()
            for c in range(len(alpha))
        ]
    )
    assert uncertain_cross_entropy(torch.tensor([alpha]), shares).item() == pytest.approx(mean)


def clouds(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    y = (torch.rand(n, generator=generator) < 0.3).long()
    x = torch.randn(n, 2, generator=generator) + 2.0 * (2 * y[:, None] - 1)
    return x, y


def trained(variant: str, seed: int = 0) -> PosteriorNetwork:
    x, y = clouds(1500, 0)
    torch.manual_seed(seed)
    trunk = Trunk(2, hidden_sizes=(32, 32), batch_norm=False)
    counts = torch.bincount(y).tolist()
    learner = PosteriorNetwork(trunk, counts, latent_size=3, flow_layers=4, variant=variant)
    fit(
        learner, TensorExamples({"numbers": x, "label": y}), max_steps=400, batch_size=128,
        optimizer="adam", learning_rate=3e-3, weight_decay=0.0, threads=1, seed=seed,
    )  # fmt: skip
    return learner


@pytest.fixture(scope="module", params=["per_class", "single"])
def learner(request):
    return trained(request.param)


def test_evidence_falls_away_from_the_data(learner):
    x, _ = clouds(400, 1)
    with torch.no_grad():
        near = learner({"numbers": x}).evidence.sum(-1)
        away = learner({"numbers": torch.tensor([[30.0, -30.0], [-40.0, 40.0], [60.0, 60.0]])})
    assert near.median() > 5
    assert away.evidence.sum(-1).max() < 1e-3 * near.median()


def test_it_classifies(learner):
    x, y = clouds(2000, 2)
    with torch.no_grad():
        alpha = learner({"numbers": x}).concentration
    share = alpha[:, 1] / alpha.sum(-1)
    # Bayes' error of two unit clouds 4 sqrt 2 apart with odds 3 to 7 is below one percent.
    assert ((share > 0.5).long() == y).float().mean() > 0.97
    # The prior of ones draws scores towards a half as far as the evidence is thin.
    assert share.mean().item() == pytest.approx(y.double().mean().item(), abs=0.08)


def test_thinned_classes_get_their_counts_back(learner):
    x, _ = clouds(50, 3)
    with torch.no_grad():
        z = learner.encode({"numbers": x})
        plain = learner.decode(z, {})
        assert torch.equal(learner.population(z).concentration, plain.concentration)
        learner.sampling_rates.copy_(torch.tensor([0.1, 1.0]))
        restored = learner.population(z)
        learner.sampling_rates.fill_(1.0)
    before = plain.evidence[:, 0] / plain.evidence[:, 1]
    after = restored.evidence[:, 0] / restored.evidence[:, 1]
    kept = torch.isfinite(before) & (before > 1e-20) & (before < 1e20)
    assert torch.allclose(after[kept], 10 * before[kept], rtol=1e-3)
    if learner.variant == "single":
        assert torch.allclose(restored.evidence.sum(-1), plain.evidence.sum(-1), rtol=1e-4)
    else:
        assert torch.allclose(restored.evidence[:, 1], plain.evidence[:, 1])


def test_densities_are_held_within_limits(learner):
    with torch.no_grad():
        out = learner({"numbers": torch.tensor([[1e18, -1e18]])})
    assert torch.isfinite(out.concentration).all() and (out.concentration >= 1).all()
    assert torch.isfinite(learner.score(out, {"label": torch.tensor([0])})).all()


def test_an_unknown_variant_is_named():
    with pytest.raises(ParameterError, match="per_class, single, not 'both'"):
        PosteriorNetwork(Trunk(2), [1, 1], variant="both")
