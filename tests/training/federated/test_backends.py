"""The same federation on Flower's Ray simulation and on a SuperLink with SuperNodes over TLS."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch
from federation import Misbehaving, Regression, flat, make_clients

from foretell.errors import TrainingError
from foretell.training.federated import ActivitySelection, LocalTraining, run_federated
from foretell.training.federated.backends.certificates import make_certificates, make_node_key
from foretell.training.federated.backends.superlink import _free_ports, _processes


def assert_same(first, second):
    assert first.selection_log.drop("failure").equals(second.selection_log.drop("failure"))
    torch.testing.assert_close(flat(first.learner), flat(second.learner), atol=1e-6, rtol=0)
    for name in ("participants", "failures", "samples", "bytes_down", "bytes_up"):
        assert first.rounds[name].to_list() == second.rounds[name].to_list()


def test_certificates_are_made_for_this_machine_alone(tmp_path):
    paths = make_certificates(tmp_path)
    verify = ["openssl", "verify", "-CAfile", str(paths.authority), str(paths.server)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    private, public = make_node_key(tmp_path, 3)
    assert public.read_text().startswith("ecdsa-sha2-nistp384 ")
    for secret in (paths.key, private):
        assert os.stat(secret).st_mode & 0o077 == 0


def test_processes_end_with_the_block_and_show_their_logs(tmp_path):
    assert len(set(_free_ports(5))) == 5
    with pytest.raises(TrainingError, match=r"nobody.*status 3(.|\n)*the cause"):
        with _processes(tmp_path, dict(os.environ)) as start:
            lasting = start("lasting", "sleep", "3600")
            failing = start("nobody", "sh", "-c", "echo the cause; exit 3")
            failing.process.wait()
            failing.check()
    assert lasting.process.wait(120) < 0


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fedadam", "scaffold"])
def test_ray_gives_the_same_numbers(strategy):
    pytest.importorskip("ray")
    clients = Misbehaving({2: "raises"})
    arguments = {
        "strategy": strategy,
        "clients_per_round": 3,
        "rounds": 3,
        "seed": 5,
        "local": LocalTraining(epochs=2, learning_rate=0.05),
    }
    ours = run_federated(Regression, clients, **arguments)
    assert ours.rounds["failures"].sum() > 0
    assert_same(ours, run_federated(Regression, clients, backend="ray", **arguments))


@pytest.mark.slow
def test_a_superlink_over_tls_gives_the_same_numbers():
    clients = make_clients((5, 9))
    arguments = {"strategy": "fedadam", "rounds": 1, "seed": 5, "clients_per_round": 2}
    ours = run_federated(Regression, clients, **arguments)
    theirs = run_federated(Regression, clients, backend="superlink", **arguments)
    assert_same(ours, theirs)


@pytest.mark.slow
def test_a_superlink_bears_clients_that_raise_and_that_never_answer():
    sizes = (5, 9, 3)
    ours = run_federated(Regression, Misbehaving({1: "raises", 2: "raises"}, sizes=sizes), rounds=1)
    theirs = run_federated(
        Regression,
        Misbehaving({1: "raises", 2: "hangs"}, sizes=sizes),
        rounds=1,
        backend="superlink",
        timeout=120.0,
    )
    reasons = theirs.failures.sort("client")["failure"].to_list()
    assert "the disk is gone" in reasons[0]
    assert reasons[1] == "no answer in time"
    torch.testing.assert_close(flat(ours.learner), flat(theirs.learner), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_ray_selects_the_same_clients_with_the_same_chances():
    pytest.importorskip("ray")
    arguments = {
        "strategy": "fedadam",
        "clients_per_round": 2,
        "selection": ActivitySelection("proportional", "poisson", floor=0.1),
        "aggregation": "horvitz_thompson",
        "rounds": 4,
        "seed": 3,
        "local": LocalTraining(learning_rate=0.05),
    }
    clients = Misbehaving({})
    ours = run_federated(Regression, clients, **arguments)
    rays = run_federated(Regression, clients, backend="ray", **arguments)
    assert_same(ours, rays)
    names = ["round", "client", "activity", "inclusion", "weight"]
    assert ours.selection_log.select(names).equals(rays.selection_log.select(names))
