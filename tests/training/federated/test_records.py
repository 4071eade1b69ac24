from __future__ import annotations

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from federation import Deep, Regression
from flwr.app import Array, ConfigRecord, MetricRecord, RecordDict
from flwr.common.serde import recorddict_to_proto
from hypothesis import given

from foretell.errors import ParameterError, TrainingError
from foretell.training.federated.freezing import freeze
from foretell.training.federated.records import (
    from_record,
    load_record,
    mismatch,
    serialised_bytes,
    to_array,
    to_numpy,
    to_record,
    travelling,
)

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)


@given(hnp.arrays(hnp.floating_dtypes(endianness="=", sizes=(16, 32, 64)), shapes))
def test_arrays_are_serialised_as_flower_does(values):
    ours, theirs = to_array(values), Array(values)
    assert ours == theirs
    np.testing.assert_array_equal(to_numpy(theirs), values)
    np.testing.assert_array_equal(to_numpy(ours), ours.numpy())


def test_arrays_in_other_layouts_are_read_right():
    values = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(to_numpy(Array(np.asfortranarray(values))), values)
    lying = Array("float64", (3, 2), "numpy.ndarray", Array(values).data)
    assert to_numpy(lying).shape == (2, 3)
    with pytest.raises(ValueError):
        to_numpy(Array("float64", (2,), "numpy.ndarray", b"not an array at all"))


def test_only_what_is_trained_travels():
    assert set(travelling(Regression())) == {"linear.weight", "linear.bias"}
    learner = Deep()
    assert {"norm.running_mean", "norm.running_var"} < set(travelling(learner))
    assert "norm.num_batches_tracked" not in travelling(learner)
    freeze(learner, ["norm", "embeddings", 0])
    names = set(travelling(learner))
    assert not any(name.startswith(("norm", "embeddings", "layers.0")) for name in names)
    for parameter in learner.parameters():
        parameter.requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing would travel"):
        travelling(learner)


def test_weights_come_back_bit_by_bit():
    first, second = Deep(), Deep()
    record = to_record(travelling(first))
    load_record(travelling(second), record)
    for name, value in travelling(first).items():
        assert torch.equal(value, travelling(second)[name])
        assert torch.equal(value, from_record(record)[name])


def test_what_does_not_fit_is_named():
    tensors = travelling(Regression())
    record = to_record(tensors)
    del record["linear.bias"]
    with pytest.raises(TrainingError, match=r"1 missing \(linear\.bias\)"):
        load_record(tensors, record)
    record["linear.bias"] = Array(np.zeros(4, np.float32))
    assert "shape (4,)" in mismatch(record, tensors)
    record["linear.bias"] = Array(np.zeros(1, np.int64))
    assert "int64" in mismatch(record, tensors)


def test_bytes_are_those_of_the_serialised_records():
    record = to_record({"w": np.zeros((100, 50), np.float32), "b": np.zeros(50, np.float32)})
    content = RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 3})})
    content["config"] = ConfigRecord({"server-round": 2})
    counted = serialised_bytes([content])
    sent = recorddict_to_proto(content).ByteSize()
    assert 0 <= sent - counted < 200  # the framing of the fields
    assert serialised_bytes([content, content]) == 2 * counted


@pytest.mark.parametrize(
    ("layers", "frozen"),
    [
        (["embeddings"], {"embeddings"}),
        ([0, 2], {"layers.0", "layers.2"}),
        (["embeddings", 1], {"embeddings", "layers.1"}),
        (["head.bias"], {"head.bias"}),
    ],
)
def test_layers_are_frozen_by_name_and_number(layers, frozen):
    learner = Deep()
    names = freeze(learner, layers)
    wanted = [n for n, _ in learner.named_parameters() if n.startswith(tuple(frozen))]
    assert sorted(names) == sorted(wanted)
    assert all(p.requires_grad == (n not in names) for n, p in learner.named_parameters())


def test_recurrent_layers_are_frozen_by_number():
    lstm = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    assert all("_l1" in name for name in freeze(lstm, [1]))
    assert sum(not p.requires_grad for p in lstm.parameters()) == 8


def test_layers_that_are_not_there_are_refused():
    with pytest.raises(ParameterError, match=r"no layer 'embed'.*embeddings"):
        freeze(Deep(), ["embed"])
    with pytest.raises(ParameterError, match="no layer 7"):
        freeze(Deep(), [7])
    with pytest.raises(ParameterError, match="nothing to train"):
        freeze(Regression(), ["linear"])
