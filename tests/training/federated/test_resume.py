from __future__ import annotations

import numpy as np
import pytest
from federation import Regression, make_clients

from foretell.errors import TrainingError
from foretell.training.federated import LocalTraining, run_federated


class KilledError(Exception):
    pass


CASES = {
    "fedadam": {"strategy": "fedadam", "local": LocalTraining(schedule="cosine")},
    "fedavgm": {"strategy": "fedavgm"},
    "scaffold": {"strategy": "scaffold"},
    "kept": {"local": LocalTraining(optimizer="adam", learning_rate=0.01, keep_optimizer=True)},
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_ends_with_the_same_numbers(case, tmp_path):
    arguments = {"rounds": 6, "clients_per_round": 2, "seed": 3, **CASES[case]}

    def measure(learner):
        return {"weight": learner.linear.weight.sum().item()}

    calls = []

    def killing(learner):
        calls.append(1)
        if len(calls) == 4:  # round 3: after the checkpoint of round 2
            raise KilledError
        return measure(learner)

    whole = run_federated(Regression, make_clients(), evaluate=measure, **arguments)
    with pytest.raises(KilledError):
        run_federated(
            Regression, make_clients(), evaluate=killing, checkpoint=tmp_path, **arguments
        )
    resumed = run_federated(
        Regression,
        make_clients(),
        evaluate=measure,
        checkpoint=tmp_path,
        resume=True,
        **arguments,
    )
    for name, values in whole.state["arrays"].items():
        np.testing.assert_array_equal(resumed.state["arrays"][name], values)
    assert resumed.rounds.equals(whole.rounds)
    assert resumed.selection_log.equals(whole.selection_log)
    again = run_federated(
        Regression, make_clients(), evaluate=measure, checkpoint=tmp_path, resume=True, **arguments
    )
    assert again.rounds.equals(whole.rounds)


def test_another_run_is_not_resumed(tmp_path):
    run_federated(Regression, make_clients(), rounds=1, checkpoint=tmp_path)
    with pytest.raises(TrainingError, match="seed was 0 and is 1"):
        run_federated(
            Regression, make_clients(), rounds=1, checkpoint=tmp_path, resume=True, seed=1
        )


def test_resuming_without_a_checkpoint_starts(tmp_path):
    found = run_federated(Regression, make_clients(), rounds=1, checkpoint=tmp_path, resume=True)
    assert found.rounds["round"].to_list() == [1]
