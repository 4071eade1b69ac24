"""Private training with a loop of one's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from foretell.errors import ParameterError, TrainingError
from foretell.learners.contract import Learner
from foretell.training import TensorExamples, fit
from foretell.training.private import (
    BatchMemoryManager,
    MicroBatchTraining,
    PrivacyEngine,
    PrivateTraining,
    clipped_grad_sum,
)

pytest.importorskip("dp_accounting", reason="needs the extra 'private'")

WORDS = 30


class Tagger(nn.Module):
    """Words to a class: an embedding with padding, an LSTM, a norm."""

    def __init__(self, raw: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.norm, self.out = nn.LayerNorm(10), nn.Linear(10, 3)
        self.scale = nn.Parameter(torch.ones(3)) if raw else None

    def forward(self, tokens):
        values = self.out(self.norm(self.lstm(self.words(tokens))[0].mean(1)))
        return values if self.scale is None else values * self.scale


def data(size: int = 400) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, WORDS, (size, 7), generator=generator)
    return TensorDataset(tokens, tokens.sum(1) % 3)


def module(raw: bool = False) -> Tagger:
    torch.manual_seed(1)
    return Tagger(raw)


def losses(output, y):
    return F.cross_entropy(output, y, reduction="none")


def private(net=None, *, seed=3, loader=None, rate=0.5, engine=None, noise=1.0, **options):
    net = module() if net is None else net
    engine = PrivacyEngine(accountant="rdp", seed=seed) if engine is None else engine
    loader = DataLoader(data(), batch_size=40, shuffle=True) if loader is None else loader
    optimizer = torch.optim.SGD(net.parameters(), rate)
    made = engine.make_private(
        module=net, optimizer=optimizer, data_loader=loader, noise_multiplier=noise, **options
    )
    return engine, net, *made


def weights(net) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def clipped_by_hand(net, x, y, bound=1.0):
    """Clipped sum and norms by a loop over the examples."""
    parameters = list(net.parameters())
    total, norms = [torch.zeros_like(p) for p in parameters], []
    for i in range(len(x)):
        loss = losses(net(x[i : i + 1]), y[i : i + 1]).sum()
        found = torch.autograd.grad(loss, parameters)
        norms.append(torch.stack([g.norm() for g in found]).norm())
        for whole, g in zip(total, found, strict=True):
            whole += g * min(1.0, bound / norms[-1].item())
    return torch.cat([g.flatten() for g in total]), torch.stack(norms)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("by_backward", [False, True])
@pytest.mark.parametrize("mode", ["auto", "book_keeping", "ghost", "per_sample"])
@pytest.mark.filterwarnings("ignore:no rule explains", "ignore:There is a performance drop")
def test_a_step_is_the_clipped_sum_over_the_expected_size(mode, by_backward, raw):
    """Noise too small to see: what is left is the sum, clipped by hand."""
    _, net, model, optimizer, loader = private(
        module(raw), clipping_mode=mode, max_grad_norm=0.4, noise=1e-9, rate=1.0
    )
    before = weights(net)
    x, y = next(iter(loader))
    expected, norms = clipped_by_hand(net, x, y, 0.4)
    assert (norms > 0.4).any()
    found = losses(model(x), y)
    if by_backward:
        found.sum().backward()
        optimizer.step()
    else:
        optimizer.step(found)
    torch.testing.assert_close(before - weights(net), expected / 40, rtol=1e-4, atol=1e-6)


def test_a_mean_can_be_declared():
    results = []
    for reduction in ("sum", "mean"):
        _, net, model, optimizer, loader = private(loss_reduction=reduction)
        x, y = next(iter(loader))
        getattr(losses(model(x), y), reduction)().backward()
        optimizer.step()
        results.append(weights(net))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_it_trains_and_says_what_was_guaranteed():
    net = module()
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    engine = PrivacyEngine(accountant="rdp", seed=0)
    dataset = data(1200)
    dataset = TensorDataset(dataset.tensors[0], (dataset.tensors[0][:, 0] > 14).long())
    model, optimizer, loader, criterion = engine.make_private_with_epsilon(
        module=net,
        optimizer=optimizer,
        data_loader=DataLoader(dataset, batch_size=120),
        target_epsilon=8.0,
        epochs=8,
        criterion=losses,
    )
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    for _ in range(8):
        for x, y in loader:
            optimizer.zero_grad()
            optimizer.step(criterion(model(x), y))
            schedule.step()
    statement = engine.privacy_statement()
    assert 8 * (1 - 1e-3) <= statement.epsilon == engine.get_epsilon() <= 8
    assert statement.sampling == "poisson(0.1)" and statement.steps == (80,)
    assert engine.get_epsilon(1e-9) > 8
    assert not any("caller backpropagated" in a for a in statement.assumptions)
    with torch.no_grad():
        accuracy = (model.eval()(dataset.tensors[0]).argmax(1) == dataset.tensors[1]).float().mean()
    assert accuracy > 0.65
    assert model.to_standard_module() is net and model.words is net.words
    model.train()
    x, y = next(iter(loader))
    optimizer.step(criterion(model(x), y))
    with pytest.warns(UserWarning, match="target epsilon is exceeded"):
        assert engine.get_epsilon() > 8


def test_it_is_the_machinery_of_private_training():
    """The same draws, without noise: both faces take the same step."""

    class Wrapped(Learner):
        def __init__(self):
            super().__init__()
            self.net = module()

        def encode(self, batch):
            return self.net(batch["x"])

        def decode(self, encoding, batch):
            return encoding

        def score(self, output, batch):
            return losses(output, batch["y"])

    engine, net, model, optimizer, loader = private(noise=1e-9, rate=0.1)
    x, y = data().tensors
    drawn = engine.mechanism.rows(np.random.default_rng(5))
    assert type(engine.mechanism) is PrivateTraining
    next(iter(loader))
    optimizer.step(losses(model(x[drawn]), y[drawn]))
    learner, strategy = Wrapped(), PrivateTraining(1e-9, accountant="rdp")
    strategy.draw = lambda context: drawn
    fit(learner, TensorExamples({"x": x, "y": y}), strategies=[strategy], max_steps=1,
        batch_size=40, optimizer=torch.optim.SGD, learning_rate=0.1, weight_decay=0,
        gradient_clip=None, schedule="constant", progress=False)  # fmt: skip
    torch.testing.assert_close(weights(learner.net), weights(net), rtol=1e-4, atol=1e-6)
    assert engine.privacy_statement().dp_event == strategy.statement().dp_event


def test_virtual_batches_change_nothing():
    results = []
    for most in (None, 7):
        engine, net, model, optimizer, loader = private()
        if most is None:
            for x, y in loader:
                optimizer.step(losses(model(x), y))
        else:
            with BatchMemoryManager(
                data_loader=loader, max_physical_batch_size=most, optimizer=optimizer
            ) as parts:
                for x, y in parts:
                    assert len(x) <= most
                    optimizer.step(losses(model(x), y))
        results.append((weights(net), engine.steps))
    assert results[0][1] == results[1][1] == 10
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-4, atol=1e-5)


def test_same_seed_same_weights_and_secure_trainings_differ():
    def train(engine):
        _, net, model, optimizer, loader = private(engine=engine)
        for x, y in loader:
            optimizer.step(losses(model(x), y))
        return weights(net)

    assert torch.equal(train(PrivacyEngine("rdp", seed=1)), train(PrivacyEngine("rdp", seed=1)))
    assert not torch.equal(train(PrivacyEngine("rdp")), train(PrivacyEngine("rdp")))
    secure = [train(PrivacyEngine("rdp", secure_mode=True, seed=1)) for _ in range(2)]
    assert not torch.equal(*secure)


def test_an_empty_draw_is_a_step_of_noise():
    engine, net, model, optimizer, loader = private(
        loader=DataLoader(data(200), batch_size=1, shuffle=True), expected_batch_size=1
    )
    before, empty = weights(net), 0
    for x, y in loader:
        empty += not len(x)
        optimizer.step(losses(model(x), y))
        if not len(x):
            assert not torch.equal(before, weights(net))
        before = weights(net)
    assert empty > 20 and engine.steps == 200


def test_draws_are_poisson_and_the_normaliser_is_public():
    """A batch that is realised smaller or larger is still divided by what was expected."""
    _, net, model, optimizer, loader = private(noise=1e-9, rate=1.0, expected_batch_size=25)
    sizes = [len(x) for x, _ in loader]
    assert len(set(sizes)) > 3 and len(sizes) == 16
    before = weights(net)
    x, y = next(iter(loader))
    expected, _ = clipped_by_hand(net, x, y)
    optimizer.step(losses(model(x), y))
    assert len(x) != 25
    torch.testing.assert_close(before - weights(net), expected / 25, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "sampler",
    [
        WeightedRandomSampler(torch.ones(400).tolist(), 400),
        DistributedSampler(data(), num_replicas=2, rank=0),
        RandomSampler(data(), replacement=True),
    ],
    ids=["weighted", "distributed", "replacement"],
)
def test_draws_that_no_statement_covers_are_refused(sampler):
    for poisson in (True, False):
        with pytest.raises(TrainingError, match=f"draws by {type(sampler).__name__}"):
            private(
                loader=DataLoader(data(), batch_size=40, sampler=sampler), poisson_sampling=poisson
            )


def test_streams_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(3)

    with pytest.raises(TrainingError, match="stream of examples"):
        private(loader=DataLoader(Stream(), batch_size=4))


def test_a_loader_of_ones_own_gets_a_statement_without_amplification():
    statements = []
    for poisson in (True, False):
        engine, _, model, optimizer, loader = private(poisson_sampling=poisson, noise=2.0)
        for x, y in loader:
            optimizer.step(losses(model(x), y))
        statements.append(engine.privacy_statement())
    drawn, given = statements
    assert given.sampling == "none" and given.adjacency == "zero_out_example"
    assert given.epsilon > 3 * drawn.epsilon
    assert any("no batch holds an example twice" in a for a in given.assumptions)


def test_a_step_needs_a_draw_of_its_own():
    _, _, model, optimizer, loader = private()
    x, y = next(iter(loader))
    optimizer.step(losses(model(x), y))
    with pytest.raises(TrainingError, match="a batch of its own"):
        optimizer.step(losses(model(x), y))


def test_losses_that_are_no_examples_own_are_refused():
    _, _, model, optimizer, loader = private()
    x, y = next(iter(loader))
    with pytest.raises(TrainingError, match=r"shape \(B,\), not \(\)"):
        optimizer.step(F.cross_entropy(model(x), y))
    with pytest.raises(TrainingError, match="depends on outputs of others"):
        output = model(x)
        optimizer.step(losses(output - output.mean(0), y))
    with pytest.raises(TrainingError, match="does not depend on an output"):
        optimizer.step(torch.ones(len(x), requires_grad=True))


def test_a_mean_over_the_tokens_of_a_batch_is_refused():
    """Each row has its own loss, and yet the number of tokens of the others is in it."""

    def token_mean(output, y):
        return losses(output, y) / (1 + y.sum())

    _, _, model, _, loader, criterion = private(criterion=token_mean)
    x, y = next(iter(loader))
    with pytest.raises(TrainingError, match="couples them"):
        criterion(model(x), y)
    _, _, model, _, _, criterion = private(criterion=nn.CrossEntropyLoss())
    with pytest.raises(TrainingError, match="one loss for each example"):
        criterion(model(x), y)


def test_a_gradient_past_the_module_is_refused():
    _, net, model, optimizer, loader = private()
    x, y = next(iter(loader))
    (losses(model(x), y).sum() + net.out.weight.square().sum()).backward()
    with pytest.raises(TrainingError, match="past the private module"):
        optimizer.step()


def test_modules_that_mix_examples_are_refused():
    with pytest.raises(TrainingError, match=r"BatchNorm1d.*GroupNorm"):
        private(nn.Sequential(nn.Linear(7, 4), nn.BatchNorm1d(4)))

    class Centred(Tagger):
        def forward(self, tokens):
            values = super().forward(tokens)
            return values - values.mean(0)

    _, _, model, _, loader = private(Centred())
    with pytest.raises(TrainingError, match="mixes examples"):
        model(next(iter(loader))[0])


def test_a_resumed_training_has_the_same_weights_and_statement():
    def run(net, engine, model, optimizer, loader, steps):
        done = 0
        while done < steps:
            for x, y in loader:
                optimizer.step(losses(model(x), y))
                done += 1
                if done == steps:
                    break

    options = {"max_grad_norm": "quantile", "noise_decay": 0.9}
    engine, net, model, optimizer, loader = private(**options)
    run(net, engine, model, optimizer, loader, 14)
    whole, statement = weights(net), engine.privacy_statement()
    engine, net, model, optimizer, loader = private(**options)
    run(net, engine, model, optimizer, loader, 5)
    state, half = engine.state_dict(), {k: v.clone() for k, v in net.state_dict().items()}
    engine, net, model, optimizer, loader = private(seed=99, **options)
    net.load_state_dict(half)
    engine.load_state_dict(state)
    run(net, engine, model, optimizer, loader, 9)
    assert torch.equal(weights(net), whole)
    assert engine.privacy_statement() == statement


@pytest.mark.parametrize(
    "change, name",
    [
        ({"loader": DataLoader(data(399), batch_size=40)}, "examples"),
        ({"expected_batch_size": 41}, "expected_batch_size"),
        ({"max_grad_norm": 2.0}, "max_grad_norm"),
        ({"noise": 1.1}, "noise_multiplier"),
    ],
    ids=["N", "q", "C", "sigma"],
)
def test_a_state_of_other_circumstances_is_refused(change, name):
    engine, _, model, optimizer, loader = private()
    x, y = next(iter(loader))
    optimizer.step(losses(model(x), y))
    other, *_ = private(**change)
    with pytest.raises(TrainingError, match=f"with {name} "):
        other.load_state_dict(engine.state_dict())
    with pytest.raises(TrainingError, match="before the first one"):
        engine.load_state_dict(engine.state_dict())


def test_micro_batches_are_slots_of_the_module():
    """Without noise and with wide bounds: the mean over slots of mean gradients."""
    engine, net, model, optimizer, loader = private(
        clipping_mode="microbatch", microbatch_size=10, max_grad_norm=1e6, noise=1e-12, rate=1.0
    )
    assert isinstance(engine.mechanism, MicroBatchTraining)
    before = weights(net)
    x, y = next(iter(loader))
    slots = optimizer.slots(len(x))
    expected = torch.zeros_like(before)
    for rows in slots:
        found = torch.autograd.grad(losses(net(x[rows]), y[rows]).mean(), list(net.parameters()))
        expected += torch.cat([g.flatten() for g in found]) / 4
    optimizer.step(losses(model(x), y))
    torch.testing.assert_close(before - weights(net), expected, rtol=1e-4, atol=1e-6)
    statement = engine.privacy_statement()
    assert statement.sensitivity_factor == 2 and "micro-batches of 10" in statement.clipping
    with pytest.raises(TrainingError, match="slots are the parts"):
        BatchMemoryManager(data_loader=loader, max_physical_batch_size=8, optimizer=optimizer)


def test_two_calls_of_one_step_are_one_gradient():
    """Both halves of a pair go through the same module, and one norm covers both."""
    engine, net, model, optimizer, loader = private(noise=1e-9, max_grad_norm=0.1, rate=1.0)
    for _ in range(2):
        before = weights(net)
        x, y = next(iter(loader))
        optimizer.step(losses(model(x) + model(x.flip(1)), y))
        parameters, expected = list(net.parameters()), torch.zeros_like(before)
        start, split = 0, [p.numel() for p in parameters]
        with torch.no_grad():
            for p, part in zip(parameters, before.split(split), strict=True):
                p.copy_(part.view_as(p))
        for i in range(len(x)):
            one = x[i : i + 1]
            found = torch.autograd.grad(
                losses(net(one) + net(one.flip(1)), y[i : i + 1]).sum(), parameters
            )
            flat = torch.cat([g.flatten() for g in found])
            expected += flat * min(1.0, 0.1 / flat.norm().item())
        with torch.no_grad():
            for p, part in zip(parameters, (before - expected / 40).split(split), strict=True):
                assert p.numel() and start == 0
                p.copy_(part.view_as(p))
        torch.testing.assert_close(before - weights(net), expected / 40, rtol=1e-4, atol=1e-6)
    assert any("2 steps had several" in a for a in engine.privacy_statement().assumptions)


def test_parts_of_a_batch_are_not_taken_for_the_same_examples():
    """Halves of one size would be clipped in pairs, each of which can turn around: 2 C."""
    _, _, model, optimizer, loader = private()
    for x, y in loader:
        if len(x) % 2 == 0:
            break
        optimizer.step(losses(model(x), y))
    for a, b in zip(x.chunk(2), y.chunk(2), strict=True):
        losses(model(a), b).sum().backward()
    with pytest.raises(TrainingError, match="BatchMemoryManager"):
        optimizer.step()


def test_counts_of_a_step_that_was_not_made_are_forgotten():
    """An example counted in it may be drawn again, and would count twice."""
    engine, _, model, optimizer, loader = private(max_grad_norm="quantile")
    with BatchMemoryManager(
        data_loader=loader, max_physical_batch_size=7, optimizer=optimizer
    ) as parts:
        x, y = next(iter(parts))
        optimizer.step(losses(model(x), y))
        assert engine.steps == 0 and any(engine.mechanism.layers._below.values())
    assert not any(engine.mechanism.layers._below.values())


def test_the_low_level_sum_is_that_of_a_loop():
    net = module()
    x, y = (tensor[:20] for tensor in data().tensors)
    expected, norms = clipped_by_hand(net, x, y, 0.3)
    found = clipped_grad_sum(net, lambda: losses(net(x), y), 0.3)
    mine = torch.cat([found.gradients[p].flatten() for p in net.parameters()])
    torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.norms, norms, rtol=1e-4, atol=1e-6)
    odd = module(raw=True)
    with (
        pytest.warns(UserWarning, match="no rule explains"),
        pytest.raises(TrainingError, match=r"no rule explains the gradients of scale"),
    ):
        clipped_grad_sum(odd, lambda: losses(odd(x), y), 0.3)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"clipping_mode": "fast"}, "clipping_mode must be one of"),
        ({"microbatch_size": 8}, "are for clipping_mode='microbatch'"),
        ({"loss_reduction": "none"}, "loss_reduction"),
        ({"layer_scale": "numel", "clipping_mode": "ghost"}, "a weight for each layer"),
    ],
    ids=["mode", "size", "reduction", "ghost"],
)
def test_wrong_settings_are_named(options, message):
    with pytest.raises(ParameterError, match=message):
        private(**options)


def test_one_engine_is_one_training():
    engine, *_ = private()
    with pytest.raises(TrainingError, match="a new one for each"):
        private(engine=engine)
    with pytest.raises(TrainingError, match="call make_private first"):
        PrivacyEngine().get_epsilon()
    net = module()
    with pytest.raises(TrainingError, match="not the module's"):
        PrivacyEngine().make_private(
            module=net, optimizer=torch.optim.SGD(module().parameters(), 0.1),
            data_loader=DataLoader(data(), batch_size=40), noise_multiplier=1.0,
        )  # fmt: skip
