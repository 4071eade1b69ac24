"""Dividing a data set among clients."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.data.partitions import (
    FeatureCluster,
    LabelDirichlet,
    Natural,
    QuantityDirichlet,
    entity_type_labels,
)
from foretell.data.public import newsgroups20
from foretell.data.text import TextSet
from foretell.errors import DataError, ParameterError

# Of flwr-datasets 0.6.1, DirichletPartitioner: examples, classes, clients, alpha, smallest,
# balancing, seed; sizes; and the SHA-256 of the JSON list of the rows of each client.
GOLDEN = [
    ((60, 3, 4, 0.5, 2, False, 42), [8, 11, 25, 16],
     "040e46188417b978bacdc24dcb8adf875134946c932096bfd2162e3d95fe6e4c"),
    ((400, 5, 7, 1.0, 10, True, 7), [59, 35, 71, 100, 47, 58, 30],
     "e7d33c60af46dd0e925c47da5c90b6eb8eb26ec81977673dc7fe225cf183ba6e"),
    ((500, 4, 6, 0.3, 1, False, 3), [56, 111, 56, 55, 128, 94],
     "d1d933cbe14977b981735998f780426a33585f4c4c22377715854e7cdcc131b4"),
]  # fmt: skip


def check_division(parts: list[np.ndarray], total: int) -> None:
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(total))


@pytest.mark.parametrize(("case", "sizes", "digest"), GOLDEN, ids=["plain", "balanced", "skewed"])
def test_by_class_is_what_flower_datasets_draws(case, sizes, digest):
    examples, classes, clients, alpha, smallest, balancing, seed = case
    labels = np.random.default_rng(seed).integers(0, classes, examples)
    partitioner = LabelDirichlet(
        clients, labels, alpha, scheme="class", min_partition_size=smallest,
        self_balancing=balancing, seed=seed,
    )  # fmt: skip
    partitioner.dataset = labels
    assert partitioner.sizes.tolist() == sizes
    rows = json.dumps([part.tolist() for part in partitioner.parts])
    assert hashlib.sha256(rows.encode()).hexdigest() == digest


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 300), st.integers(1, 12), st.floats(1e-4, 1e4), st.integers(1, 20),
    st.integers(0, 2**31),
)  # fmt: skip
def test_by_client_every_row_once_and_sizes_equal(total, classes, alpha, clients, seed):
    clients = min(clients, total)
    labels = np.random.default_rng(seed).integers(0, classes, total)
    partitioner = LabelDirichlet(clients, labels, alpha, seed=seed)
    partitioner.dataset = labels
    check_division(partitioner.parts, total)
    assert set(partitioner.sizes[:-1].tolist()) <= {total // clients}
    again = LabelDirichlet(clients, labels, alpha, seed=seed).like(labels)
    assert all(map(np.array_equal, partitioner.parts, again.parts))


def test_alpha_is_the_total_concentration():
    labels = np.repeat(np.arange(20), 500)

    def held(alpha: float, scheme: str) -> float:
        partitioner = LabelDirichlet(100, labels, alpha, scheme=scheme, min_partition_size=0)
        partitioner.dataset = labels
        return float(partitioner.classes_per_client(labels).mean())

    assert held(0.1, "client") < 3
    assert held(1.0, "client") < 6
    # 1 a class and client is next to no skew at all.
    assert held(1.0, "class") > 15
    assert held(1e4, "client") > 19


def test_underflowing_alpha_gives_one_class_and_a_note():
    labels = np.repeat(np.arange(4), 100)
    partitioner = LabelDirichlet(4, labels, 5e-324)
    partitioner.dataset = labels
    check_division(partitioner.parts, 400)
    assert "one class alone" in partitioner.summary()


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf")])
def test_refuses_alpha_that_is_not_positive(alpha):
    with pytest.raises(ParameterError, match="alpha"):
        LabelDirichlet(3, "label", alpha)
    with pytest.raises(ParameterError, match="alpha"):
        FeatureCluster(3, "text", alpha)
    with pytest.raises(ParameterError, match="beta"):
        QuantityDirichlet(3, alpha)


def test_refuses_more_clients_than_examples_and_missing_columns():
    frame = pl.DataFrame({"label": [1, 2, None]})
    partitioner = LabelDirichlet(4, "label")
    partitioner.dataset = frame
    with pytest.raises(DataError, match="cannot share 3"):
        _ = partitioner.parts
    with pytest.raises(DataError, match=r"missing.*row 2"):
        _ = LabelDirichlet(2, "label").like(frame).parts
    with pytest.raises(DataError, match="lable"):
        _ = LabelDirichlet(2, "lable").like(frame).parts


def test_impossible_smallest_size_is_an_error():
    labels = np.repeat(np.arange(2), 20)
    partitioner = LabelDirichlet(10, labels, 0.01, scheme="class", min_partition_size=4)
    partitioner.dataset = labels
    with pytest.warns(UserWarning, match="drawing again"), pytest.raises(DataError, match="11 dra"):
        _ = partitioner.parts


def test_flower_verbs_on_every_kind_of_data_set():
    text = TextSet.from_texts(["a", "b", "c", "d"], intents=["x", "x", "y", "y"])
    frame = text.frame
    for data, label in ((text, "intent"), (frame, "intent"), (np.arange(4), np.arange(4) // 2)):
        partitioner = QuantityDirichlet(2, seed=1)
        with pytest.raises(AttributeError, match="dataset"):
            partitioner.load_partition(0)
        partitioner.dataset = data
        assert partitioner.is_dataset_assigned()
        with pytest.raises(ParameterError, match="only once"):
            partitioner.dataset = data
        assert partitioner.num_partitions == 2
        loaded = [partitioner.load_partition(i) for i in range(2)]
        assert sum(map(len, loaded)) == 4
        assert type(loaded[0]) is type(data)
        assert "classes a client" in partitioner.summary(label)
        assert np.bincount(partitioner.clients).tolist() == partitioner.sizes.tolist()
        with pytest.raises(ParameterError, match="0 to 1"):
            partitioner.load_partition(2)


def test_quantities_are_skewed_and_nobody_is_empty():
    partitioner = QuantityDirichlet(50, 0.5)
    partitioner.dataset = np.arange(1000)
    check_division(partitioner.parts, 1000)
    assert partitioner.sizes.min() >= 1
    assert partitioner.sizes.max() > 60
    hopeless = QuantityDirichlet(30, 1e-3)
    hopeless.dataset = np.arange(31)
    with pytest.raises(DataError, match="beta"):
        _ = hopeless.parts


def test_natural_clients_by_id():
    frame = pl.DataFrame({"author": ["b", "a", "b", "c"], "n": [0, 1, 2, 3]})
    partitioner = Natural("author")
    partitioner.dataset = frame
    assert partitioner.num_partitions == 3
    assert partitioner.load_partition(1)["n"].to_list() == [0, 2]
    assert partitioner.names.tolist() == ["a", "b", "c"]
    assert "3 clients of 1 to 2" in partitioner.summary()


def test_feature_clusters_follow_content_and_never_see_the_test_part():
    rng = np.random.default_rng(0)
    topics = [["ball", "goal", "team", "match"], ["oven", "salt", "flour", "sugar"]]
    kind = np.arange(80) % 2
    texts = [" ".join(rng.choice(topics[k], 6)) for k in kind]
    train = pl.DataFrame({"text": texts})
    partitioner = FeatureCluster(4, "text", 0.01, clusters=2, dimensions=5)
    partitioner.dataset = train
    check_division(partitioner.parts, 80)
    groups = partitioner.partition_by
    assert len(set(groups[kind == 0])) == len(set(groups[kind == 1])) == 1
    # Words that only the test part has change nothing: the clusters are those of the train part.
    test = pl.DataFrame({"text": [*texts[:10], "unheard words"]})
    divided = partitioner.like(test)
    assert divided.partition_by[:10].tolist() == groups[:10].tolist()
    again = FeatureCluster(4, "text", 0.01, clusters=2, dimensions=5).like(train)
    assert again.partition_by.tolist() == groups.tolist()


def test_entity_types_stand_for_sentences():
    tags = [["O", "O"], ["B-PER", "I-PER", "O", "B-LOC"], ["B-DATE", "O"], ["B-LOC", "B-PER"]]
    assert entity_type_labels(tags).tolist() == ["NULL", "LOC+PER", "NULL", "LOC+PER"]


@pytest.mark.real_data
def test_classes_a_client_on_newsgroups(data_root):
    labels = newsgroups20(data_root / "newsgroups20").part("train").intents
    for alpha, expected in ((0.1, 1.9), (1, 4.3), (10, 13.5)):
        held = []
        for seed in range(5):
            partitioner = LabelDirichlet(100, labels, alpha, seed=seed)
            partitioner.dataset = labels
            check_division(partitioner.parts, 11_314)
            assert partitioner.sizes.tolist() == [113] * 99 + [127]
            held.append(partitioner.classes_per_client(labels).mean())
        assert np.mean(held) == pytest.approx(expected, rel=0.15)
