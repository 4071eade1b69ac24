"""Activity-based selection inside federated runs, static and continual."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from federation import Misbehaving, Regression, flat, make_clients
from flwr.serverapp.strategy import FedAdam, FedAvg, FedProx

from foretell.errors import ParameterError, TrainingError
from foretell.training import TensorExamples
from foretell.training.federated import (
    ActivitySelection,
    ClientPrivacy,
    ContinualClients,
    ContinualSchedule,
    Fifo,
    LocalTraining,
    Reservoir,
    Scaffold,
    WithSelection,
    make_strategy,
    run_continual,
    run_federated,
)
from foretell.training.federated.continual import make_buffer

STEP = LocalTraining(max_steps=2, batch_size=100, learning_rate=0.1)
SIZES = (5, 9, 3, 12)


def run(clients=None, rounds=3, **options):
    return run_federated(
        Regression, clients or make_clients(SIZES), rounds=rounds, local=STEP, **options
    )


def selected(base=FedAvg, **options):
    return WithSelection(base)(fraction_evaluate=0.0, **options)


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedadam", "fedavgm", "fedyogi"])
def test_taking_all_by_size_is_the_strategy_itself(strategy):
    plain = run(strategy=strategy, seed=1)
    chosen = run(
        strategy=strategy, seed=1, clients_per_round=4,
        selection=ActivitySelection("uniform"), aggregation="num_examples",
    )  # fmt: skip
    torch.testing.assert_close(flat(chosen.learner), flat(plain.learner))


def test_selection_log_weights_and_seeds():
    def choose(seed):
        return run(
            strategy="fedavg", clients_per_round=2, selection=ActivitySelection("log"),
            aggregation="consistent", rounds=6, seed=seed,
        )  # fmt: skip

    result, again, other = choose(0), choose(0), choose(1)
    torch.testing.assert_close(flat(result.learner), flat(again.learner), rtol=0, atol=0)
    log = result.selection_log
    assert log.group_by("round").len()["len"].to_list() == [2] * 6
    assert not log["client"].equals(other.selection_log["client"])
    # n / p, on average 1 in a round.
    ratio = log["weight"] / (log["activity"] / np.log1p(log["activity"]))
    for number in range(1, 7):
        own = ratio.filter(log["round"] == number)
        assert own[0] == pytest.approx(own[1])
    assert log["weight"].mean() == pytest.approx(1)
    assert log["activity"].to_list() == [SIZES[c] for c in log["client"]]
    assert (log["inclusion"] > 0).all()


def test_equal_weights_are_a_plain_mean():
    one = LocalTraining(max_steps=1, batch_size=100, learning_rate=0.1)

    def after(**options):
        return flat(
            run_federated(Regression, make_clients(SIZES), rounds=1, local=one, **options).learner
        )

    alone = [
        after(strategy=selected(_Fixed, who=c, selection=ActivitySelection(), seed=0))
        for c in range(4)
    ]
    together = after(
        strategy=selected(selection=ActivitySelection("sqrt"), aggregation="equal",
                          clients_per_round=4)
    )  # fmt: skip
    torch.testing.assert_close(together, torch.stack(alone).mean(0))


class _Fixed(FedAvg):
    """One client only: sees what is sent, and to whom."""

    def __init__(self, who, **options):
        super().__init__(**options)
        self.who = who

    def configure_train(self, server_round, arrays, config, grid):
        from flwr.app import Message, RecordDict

        record = RecordDict({"arrays": arrays, "config": config})
        return [Message(record, dst_node_id=self.who, message_type="train")]


def test_the_proximal_term_and_the_global_generator_are_untouched():
    import random

    random.seed(3)
    expected = random.random()
    random.seed(3)
    near = run(strategy=selected(FedProx, proximal_mu=5.0, clients_per_round=2, seed=0))
    assert random.random() == expected
    far = run(strategy=selected(FedProx, proximal_mu=0.0, clients_per_round=2, seed=0))
    start = flat(run(rounds=0).learner)
    assert (flat(near.learner) - start).norm() < (flat(far.learner) - start).norm()


def test_multinomial_trains_a_client_once_and_counts_it_twice():
    result = run(
        strategy="fedavg", clients_per_round=8, rounds=4,
        selection=ActivitySelection("proportional", "multinomial"), aggregation="equal",
    )  # fmt: skip
    log = result.selection_log
    assert log.select(pl.struct("round", "client").is_unique().all()).item()
    assert (log.group_by("round").agg(pl.col("multiplicity").sum())["multiplicity"] == 8).all()
    first = log.filter(pl.col("round") == 1)
    ratio = first["weight"] / first["multiplicity"]
    assert ratio.to_list() == pytest.approx([ratio[0]] * len(ratio))


def test_failed_clients_leave_the_aggregate(caplog):
    result = run(
        Misbehaving("raises"), strategy="fedavg", clients_per_round=4, rounds=1,
        selection=ActivitySelection("log"), aggregation="horvitz_thompson",
    )  # fmt: skip
    assert result.rounds["completed"][-1] == 3
    log = result.selection_log
    assert log.filter(pl.col("client") == 1)["weight"].to_list() == [None]
    assert "1 of 4 clients did not answer" in caplog.text


def test_no_answer_keeps_the_model():
    clients = Misbehaving("raises", who=0, sizes=(5,))
    result = run(clients, strategy=selected(clients_per_round=1), rounds=2)
    torch.testing.assert_close(flat(result.learner), flat(run(clients, rounds=0).learner))


def test_more_clients_than_there_are_take_all():
    with pytest.warns(UserWarning, match="all of them"):
        result = run(strategy="fedavg", clients_per_round=9, selection=ActivitySelection("log"),
                     rounds=1)  # fmt: skip
    assert result.rounds["participants"][-1] == 4


def test_the_classic_mistake_warns():
    with pytest.warns(UserWarning, match="twice"):
        selected(selection=ActivitySelection("proportional"), aggregation="num_examples")


def test_numbers_told_in_buckets():
    strategy = selected(
        selection=ActivitySelection("proportional"), aggregation="equal", clients_per_round=2,
        activity_config={"bucket": True},
    )  # fmt: skip
    run(strategy=strategy, rounds=2)
    assert strategy.activity.of([0, 1, 2, 3]).tolist() == [4, 8, 2, 8]


def test_resumed_runs_choose_and_end_alike(tmp_path):
    def go(rounds, **more):
        return run(
            strategy="fedadam", clients_per_round=2, selection=ActivitySelection("sqrt"),
            aggregation="equal", rounds=rounds, seed=5, **more,
        )  # fmt: skip

    whole, half = go(6), go(3)
    rest = go(3, previous=half)
    torch.testing.assert_close(flat(rest.learner), flat(whole.learner), rtol=0, atol=0)


def test_private_selection_states_what_it_costs():
    def go(noise, seed=0):
        return run(
            strategy="fedavg", clients_per_round=2, rounds=4, seed=seed, aggregation="equal",
            selection=ActivitySelection("proportional", "poisson", q_max=0.8),
            privacy=ClientPrivacy(noise, 0.5, 1e-3, "rdp", noise_seed=4),
        )  # fmt: skip

    result = go(1.0)
    (statement,) = result.statements
    assert statement.unit == "client"
    assert statement.sampling.startswith("poisson(0.8)")
    assert statement.steps == (4,)
    assert 0 < statement.epsilon < 100
    torch.testing.assert_close(flat(result.learner), flat(go(1.0).learner), rtol=0, atol=0)
    # Without noise a round moves by the bound at most, over the constant of 2 clients.
    still = go(0.0)
    assert still.statements[0].epsilon == float("inf")
    log = still.selection_log.group_by("round").len()
    moved = (flat(still.learner) - flat(run(rounds=0).learner)).norm()
    assert moved <= log["len"].sum() * 0.5 / 2 + 1e-6
    assert "train_loss" not in result.rounds.columns or result.rounds["train_loss"].is_null().all()


def private(noise=1.0, noise_seed=None, **options):
    return run(
        strategy="fedavg", clients_per_round=2, aggregation="equal",
        selection=ActivitySelection("proportional", "poisson", q_max=0.8),
        privacy=ClientPrivacy(noise, 0.5, 1e-3, "rdp", noise_seed), **options,
    )  # fmt: skip


def same(one, other):
    return torch.equal(flat(one.learner), flat(other.learner))


def test_noise_and_draws_follow_from_no_seed_of_the_run():
    one, two = private(seed=0), private(seed=0)
    assert not same(one, two)
    # Eight rounds of three clients each: the same draws by chance are one in millions.
    long = [private(seed=0, noise=0.0, clients=make_clients((4,) * 12), rounds=8) for _ in range(2)]
    assert not long[0].selection_log["client"].equals(long[1].selection_log["client"])
    told = one.statements[0].assumptions
    assert any("operating system's randomness" in t and "kept secret" in t for t in told)
    given, again = private(seed=0, noise_seed=7), private(seed=1, noise_seed=7)
    assert given.selection_log["client"].equals(again.selection_log["client"])
    assert same(given, private(seed=0, noise_seed=7))
    assert not same(given, private(seed=0, noise_seed=8))
    assert any("follow from noise_seed" in t for t in given.statements[0].assumptions)


def test_a_killed_private_run_goes_on_with_its_secret_and_a_fork_does_not(tmp_path):
    class Killed(Exception):  # noqa: N818
        pass

    seen = []

    def measure(learner):
        seen.append(flat(learner).clone())
        if len(seen) == 4:  # the third round: after the checkpoint of the second
            raise Killed
        return {}

    with pytest.raises(Killed):
        private(evaluate=measure, checkpoint=tmp_path, rounds=3)
    resumed = private(evaluate=measure, checkpoint=tmp_path, resume=True, rounds=3)
    assert torch.equal(flat(resumed.learner), seen[3])
    half = private(rounds=2)
    assert not same(private(previous=half), private(previous=half))
    half = private(rounds=2, noise_seed=1)
    assert same(private(previous=half, noise_seed=1), private(previous=half, noise_seed=1))
    with pytest.raises(ParameterError, match="Go on with that noise_seed"):
        private(previous=half)
    with pytest.raises(TrainingError, match="another noise_seed"):
        private(previous=half, noise_seed=2)


def test_a_statement_covers_the_rounds_of_all_periods_though_the_server_starts_anew():
    def go(**more):
        clients = ContinualClients(
            examples_of(40), np.split(np.arange(40), 8), np.tile(np.arange(5) // 3, 8)
        )
        return run_continual(
            Regression, clients, ContinualSchedule(2, 3, "keep_all", **more), strategy="fedadam",
            selection=ActivitySelection("uniform", "poisson"), aggregation="equal",
            clients_per_round=3, privacy=ClientPrivacy(1.0, 0.5, 1e-3, "rdp"), local=STEP,
        )  # fmt: skip

    (kept,), (reset,) = go().final.statements, go(reset_server=True).final.statements
    assert sum(kept.steps) == sum(reset.steps) == 6
    assert reset.epsilon == kept.epsilon
    with pytest.raises(ParameterError, match="reset_server"):
        run_continual(
            Regression, ContinualClients(examples_of(4), [np.arange(4)], np.zeros(4)),
            ContinualSchedule(2, 1, reset_server=True), strategy=selected(),
        )  # fmt: skip


def test_rounds_that_a_statement_would_leave_out_are_refused():
    with pytest.raises(ParameterError, match="noise multiplier of 1"):
        private(noise=5.0, previous=private())
    with pytest.raises(TrainingError, match=r"knows of 0 rounds.*made 3"):
        private(previous=run())
    again = selected(
        selection=ActivitySelection("log", "poisson"), aggregation="equal", clients_per_round=2,
        privacy=ClientPrivacy(1.0, 0.5, 1e-3, "rdp"),
    )  # fmt: skip
    run(strategy=again, rounds=2)
    with pytest.raises(TrainingError, match=r"knows of 2 rounds.*made 0"):
        run(strategy=again, rounds=2)


def test_privacy_refuses_what_would_make_it_false():
    privacy, poisson = ClientPrivacy(), ActivitySelection("log", "poisson")
    with pytest.raises(ParameterError, match="poisson"):
        selected(selection=ActivitySelection("log"), aggregation="equal", privacy=privacy)
    with pytest.raises(ParameterError, match="equal"):
        selected(selection=poisson, aggregation="consistent", privacy=privacy)
    with pytest.raises(ParameterError, match="Scaffold"):
        selected(Scaffold, selection=poisson, aggregation="equal", privacy=privacy)
    with pytest.raises(ParameterError, match="FedAvg"):
        WithSelection(int)


def test_default_bound_on_chances_is_four_times_the_mean():
    strategy = selected(
        selection=ActivitySelection("proportional", "poisson"), aggregation="equal",
        privacy=ClientPrivacy(1.0, 1.0, 1e-3, "rdp"), clients_per_round=2,
    )  # fmt: skip
    sizes = [1] * 30 + [9]
    run(make_clients(sizes), strategy=strategy, rounds=1)
    assert strategy.ledger.table()["largest_chance"].max() == pytest.approx(4 * 2 / 31)


def examples_of(count):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 3)).astype(np.float32)
    return TensorExamples({"x": x, "y": x.sum(1)})


@pytest.mark.parametrize(
    ("buffer", "held"),
    [
        ("keep_all", [[0, 1], [0, 1, 2], [0, 1, 2, 3, 4, 5]]),
        ("window:1", [[0, 1], [2], [3, 4, 5]]),
        ("window:2", [[0, 1], [0, 1, 2], [2, 3, 4, 5]]),
        ("fifo:2", [[0, 1], [1, 2], [4, 5]]),
    ],
)
def test_buffers(buffer, held):
    period = np.array([0, 0, 1, 2, 2, 2, 1])
    clients = ContinualClients(examples_of(7), [np.arange(6), np.array([6])], period, buffer)
    for wanted in held:
        clients.advance()
        assert clients.held(0).tolist() == wanted
        assert clients.activity(0) == len(wanted) == len(clients.examples(0))
    assert clients.activity(1) == (1 if buffer in ("keep_all", "window:2", "fifo:2") else 0)


def test_a_reservoir_keeps_each_example_alike():
    counts = np.zeros(12)
    for seed in range(1500):
        clients = ContinualClients(
            examples_of(12), [np.arange(12)], np.arange(12) // 4, Reservoir(3), seed
        )
        for _ in range(3):
            clients.advance()
        counts[clients.held(0)] += 1
    assert counts.sum() == 1500 * 3
    assert counts / 1500 == pytest.approx(np.full(12, 0.25), abs=0.05)


@pytest.mark.parametrize("name", ["window:0", "fifo:x", "ring:3", "keep_all:2"])
def test_unknown_buffers(name):
    with pytest.raises(ParameterError):
        make_buffer(name)
    with pytest.raises(ParameterError):
        ContinualSchedule(buffer=name)


def test_periods_go_on_from_model_and_server():
    def clients():
        return ContinualClients(
            examples_of(40), np.split(np.arange(40), 8), np.tile(np.arange(5) // 3, 8), Fifo(9)
        )

    seen = []

    def go(**more):
        return run_continual(
            Regression, clients(), ContinualSchedule(2, 3, "keep_all", **more), strategy="fedadam",
            selection=ActivitySelection("log"), aggregation="equal", clients_per_round=3, eta=0.1,
            local=STEP, seed=2, evaluate=lambda learner: {"size": float(flat(learner).norm())},
            evaluate_period=lambda learner, period: seen.append(period) or {"far": period + 0.5},
        )  # fmt: skip

    result = go()
    assert seen == [0, 1]
    assert result.rounds["round"].to_list() == [0, 1, 2, 3, 4, 5, 6]
    assert (result.rounds["samples_cumulative"].diff().drop_nulls() > 0).all()
    assert result.periods["examples"].to_list() == [24, 40]
    assert result.periods["far"].to_list() == [0.5, 1.5]
    assert result.final.selection_log["activity"].unique().to_list() == [5.0]
    assert result.rounds_to("size", 1e9) is None
    assert result.rounds_to("size", 0.0) == 0
    reset = go(reset_server=True)
    assert not torch.equal(flat(reset.final.learner), flat(result.final.learner))


def test_strategies_by_name_take_a_selection():
    strategy = make_strategy("fedadam", 3, selection=ActivitySelection("log"), eta=0.2)
    assert isinstance(strategy, FedAdam)
    assert strategy.clients_per_round == 3 or strategy.min_train_nodes == 3
    assert type(strategy) is WithSelection(FedAdam)
