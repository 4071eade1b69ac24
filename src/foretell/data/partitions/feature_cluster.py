"""Clients that differ in what their texts are about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.data.partitions.label_dirichlet import by_client
from foretell.data.partitions.partitioner import Indices, Partitioner, check_clients, row_count
from foretell.errors import DataError, ParameterError

Encoder = Callable[[Sequence[str]], NDArray[np.floating[Any]]]


class FeatureCluster(Partitioner):
    """Skew in content: clusters of texts stand for the labels of :class:`LabelDirichlet`.

    Texts are encoded (tf-idf reduced by a truncated SVD, or an encoder of one's own), grouped by
    k-means, and the number of the group is the label of the ``"client"`` scheme. Encoder and
    clusters are fitted on the partitioner's own data set only: :meth:`like` divides a test part by
    the nearest centre, so that the test part never shapes the clusters.

    Args:
        num_partitions: clients.
        text: column of texts or of token lists, or a text for each row.
        alpha: total concentration; see :class:`LabelDirichlet`.
        clusters: groups of k-means.
        dimensions: of the reduced texts.
        encode: texts -> vectors ``(N, D)``, such as a sentence encoder; None for tf-idf and SVD.
        seed: of all draws, of the SVD and of k-means.

    Raises:
        ParameterError: an argument out of its range.
    """

    def __init__(
        self,
        num_partitions: int,
        text: str | Sequence[str],
        alpha: float = 1.0,
        *,
        clusters: int = 10,
        dimensions: int = 100,
        encode: Encoder | None = None,
        seed: int = 42,
        _fitted: tuple[Encoder, Any] | None = None,
    ) -> None:
        super().__init__()
        if not (np.isfinite(alpha) and alpha > 0):
            raise ParameterError(f"alpha must be positive, not {alpha}")
        if clusters < 1 or dimensions < 1:
            raise ParameterError("clusters and dimensions must be at least 1")
        self.clients_asked = num_partitions
        self.text = text
        self.alpha = alpha
        self.clusters = clusters
        self.dimensions = dimensions
        self.encode = encode
        self.seed = seed
        self._fitted = _fitted
        self._labels: NDArray[np.int64] | None = None

    @property
    def partition_by(self) -> NDArray[np.int64]:
        """Cluster of each row ``(N,)``."""
        if self._labels is None:
            texts = _texts(self.dataset, self.text)
            if self._fitted is None:
                self._fitted = self._fit(texts)
            encode, means = self._fitted
            self._labels = means.predict(np.ascontiguousarray(encode(texts), np.float32)).astype(
                np.int64
            )
        return self._labels

    def _fit(self, texts: Sequence[str]) -> tuple[Encoder, Any]:
        from sklearn.cluster import KMeans

        encode = self.encode or _latent_semantics(texts, self.dimensions, self.seed)
        vectors = np.ascontiguousarray(encode(texts), np.float32)
        if not np.isfinite(vectors).all():
            raise DataError("the encoder gave values that are not finite")
        if self.clusters > len(vectors):
            raise DataError(f"{len(vectors)} texts cannot make {self.clusters} clusters")
        means = KMeans(self.clusters, n_init=4, random_state=self.seed).fit(vectors)
        return encode, means

    def _settings(self) -> dict[str, Any]:
        if not isinstance(self.text, str):
            raise ParameterError("name the column of texts, so that another data set has it too")
        if self.is_dataset_assigned():
            _ = self.partition_by  # fits the clusters, which the other data set shares
        return {
            "num_partitions": self.clients_asked,
            "text": self.text,
            "alpha": self.alpha,
            "clusters": self.clusters,
            "dimensions": self.dimensions,
            "encode": self.encode,
            "seed": self.seed,
            "_fitted": self._fitted,
        }

    def _divide(self) -> list[Indices]:
        check_clients(self.clients_asked, row_count(self.dataset))
        rng = np.random.default_rng(self.seed)
        parts, notes = by_client(self.partition_by, self.clients_asked, self.alpha, rng)
        self.notes += notes
        return parts


def _latent_semantics(texts: Sequence[str], dimensions: int, seed: int) -> Encoder:
    """Tf-idf and a truncated SVD, fitted on texts (Deerwester et al. 1990)."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer

    tfidf = TfidfVectorizer(sublinear_tf=True, min_df=1 if len(texts) < 1000 else 2)
    table = tfidf.fit_transform(texts)
    width = min(dimensions, table.shape[1] - 1, table.shape[0])
    if width < 1:
        raise DataError("the texts have too few words to tell them apart")
    svd = TruncatedSVD(width, random_state=seed).fit(table)
    return make_pipeline(tfidf, svd, Normalizer(copy=False)).transform


def _texts(dataset: Any, name: str | Sequence[str]) -> list[str]:
    if isinstance(name, str):
        frame = getattr(dataset, "frame", dataset)
        try:
            values = frame[name]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError("there is no such column of texts", column=name) from error
    else:
        values = name
    texts = [v if isinstance(v, str) else " ".join(v) for v in values]
    if len(texts) != row_count(dataset):
        raise DataError(f"there are {row_count(dataset)} rows but {len(texts)} texts")
    return texts
