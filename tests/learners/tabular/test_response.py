"""Heads of response models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from foretell.errors import ParameterError
from foretell.learners.tabular import (
    EventNet,
    FunnelNet,
    ModuleTrunk,
    ResponseNet,
    Trunk,
    TwoWindowNet,
)


def _batch(n: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "numbers": torch.randn(n, 4, generator=generator),
        "codes": torch.randint(0, 4, (n, 1), generator=generator),
        "label": torch.randint(0, 2, (n,), generator=generator),
    }


def _trunk(**settings) -> Trunk:
    torch.manual_seed(0)
    return Trunk(4, (3,), (8, 5), **settings)


@pytest.mark.parametrize(
    ("kind", "labels"), [(ResponseNet, 2), (ResponseNet, 3), (FunnelNet, 3), (FunnelNet, 4)]
)
def test_labels_have_probabilities_and_cross_entropies(kind, labels):
    net, batch = kind(_trunk(), labels), _batch()
    output = net(batch)
    total = output.log_probabilities.exp().sum(1)
    assert total.detach().numpy() == pytest.approx(1.0, abs=1e-6)
    expected = -output.log_probabilities[torch.arange(6), batch["label"]]
    assert torch.equal(net.score(output, batch), expected)
    net.loss(batch).sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_extreme_logits_have_finite_scores():
    for net in (FunnelNet(_trunk(), 4), ResponseNet(_trunk(), 2)):
        nn.init.constant_(net.head.bias, 200.0)
        assert torch.isfinite(net.loss(_batch())).all()


def test_two_windows_are_two_events():
    probabilities = TwoWindowNet(_trunk())(_batch()).log_probabilities.exp()
    assert (probabilities[:, :2].sum(1) + probabilities[:, 2:].sum(1)).tolist() == pytest.approx(
        [2.0] * 6
    )


def test_events_that_are_not_known_do_not_count():
    net, batch = EventNet(_trunk(), ("a", "b")), _batch()
    batch["target"] = torch.tensor([[0.0, 1.0]] * 6)
    batch["known"] = torch.tensor([[1.0, 0.0]] * 6)
    score = net.loss(batch)
    batch["target"][:, 1] = 0.0
    assert torch.equal(net.loss(batch), score)


def test_a_single_row_trains_through_batch_normalisation():
    net = ResponseNet(_trunk(batch_norm=True)).train()
    assert torch.isfinite(net.loss(_batch(1))).all()


def test_own_modules_are_checked():
    assert ModuleTrunk(nn.Linear(4, 7), 4).out == 7
    with pytest.raises(ParameterError, match=r"\(B, 4\)"):
        ModuleTrunk(nn.Linear(5, 7), 4)
    with pytest.raises(ParameterError, match=r"\(B, out\)"):
        ModuleTrunk(nn.Sequential(nn.Linear(4, 7), nn.Flatten(0)), 4)
    with pytest.raises(ParameterError, match="positive"):
        Trunk(4, hidden_sizes=(0,))
    with pytest.raises(ParameterError, match="labels"):
        FunnelNet(_trunk(), 2)
