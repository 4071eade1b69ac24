"""A grown forest as plain arrays, and its safe, small file format."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ArtefactError

FORMAT = "foretell.sparse_quantile_forest"
FORMAT_VERSION = (1, 0)
_MAX_BYTES = 16 * 2**30


@dataclass(frozen=True)
class Forest:
    """All trees and leaf distributions in flat arrays.

    Attributes:
        tree_ptr: ``(B + 1,)`` int64, where each tree's nodes start.
        feature: ``(N,)`` int32 column of a split, -1 at a leaf.
        threshold: ``(N,)`` float32, values up to it go left.
        default_left: ``(N,)`` uint8, where absent values go.
        child: ``(N,)`` int32, the left child within the tree (the right one follows); at a leaf,
            the leaf's number within the tree.
        leaf_tree_ptr: ``(B + 1,)`` int64, where each tree's leaves start.
        leaf_ptr: ``(L + 1,)`` int64, where each leaf's codes start.
        codes: ``(E,)`` uint16 or int32, ascending within a leaf: positions in ``values``.
        weights: ``(E,)`` float32, adding up to one within a leaf.
        values: ``(K,)`` float64, ascending responses that the codes stand for.
        atom: ``(K,)`` uint8, 1 where the response occurs repeatedly in the training data.
        row_ids: ``(K,)`` int32 training row of each code with exact leaves, else empty.
    """

    tree_ptr: NDArray[np.int64]
    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    default_left: NDArray[np.uint8]
    child: NDArray[np.int32]
    leaf_tree_ptr: NDArray[np.int64]
    leaf_ptr: NDArray[np.int64]
    codes: NDArray[Any]
    weights: NDArray[np.float32]
    values: NDArray[np.float64]
    atom: NDArray[np.uint8]
    row_ids: NDArray[np.int32]

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.tree_ptr) - 1

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


@dataclass(frozen=True)
class Tree:
    """One grown tree: see `Forest` for the arrays."""

    feature: NDArray[np.int32]
    threshold: NDArray[np.float32]
    default_left: NDArray[np.uint8]
    child: NDArray[np.int32]
    leaf_ptr: NDArray[np.int64]
    codes: NDArray[Any]
    weights: NDArray[np.float32]
    importance: NDArray[np.float64]
    split_column: NDArray[np.int32]


def assemble(
    trees: list[Tree],
    values: NDArray[np.float64],
    atom: NDArray[np.uint8],
    row_ids: NDArray[np.int32] | None = None,
) -> Forest:
    """Joins grown trees that share one table of responses."""
    leaf_counts = [len(tree.leaf_ptr) - 1 for tree in trees]
    entries = np.concatenate(([0], np.cumsum([len(tree.codes) for tree in trees])))
    leaf_ptr = np.concatenate(
        [tree.leaf_ptr[:-1] + entries[b] for b, tree in enumerate(trees)] + [entries[-1:]]
    )
    return Forest(
        tree_ptr=_offsets([len(tree.feature) for tree in trees]),
        feature=np.concatenate([tree.feature for tree in trees]),
        threshold=np.concatenate([tree.threshold for tree in trees]),
        default_left=np.concatenate([tree.default_left for tree in trees]),
        child=np.concatenate([tree.child for tree in trees]),
        leaf_tree_ptr=_offsets(leaf_counts),
        leaf_ptr=leaf_ptr.astype(np.int64),
        codes=np.concatenate([tree.codes for tree in trees]),
        weights=np.concatenate([tree.weights for tree in trees]),
        values=values,
        atom=atom,
        row_ids=np.empty(0, np.int32) if row_ids is None else row_ids,
    )


def _offsets(sizes: list[int]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)


def concatenate(forests: list[Forest]) -> Forest:
    """One forest with all trees; the responses that the codes stand for are joined."""
    values = np.unique(np.concatenate([forest.values for forest in forests]))
    atom = np.zeros(len(values), np.uint8)
    code_type = np.uint16 if len(values) <= 2**16 else np.int32
    codes = []
    for forest in forests:
        position = np.searchsorted(values, forest.values)
        atom[position] |= forest.atom
        codes.append(position.astype(code_type)[forest.codes])

    def joined(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(forest, name) for forest in forests])

    def joined_ptr(name: str) -> NDArray[np.int64]:
        return _offsets([n for forest in forests for n in np.diff(getattr(forest, name))])

    return Forest(
        tree_ptr=joined_ptr("tree_ptr"),
        feature=joined("feature"),
        threshold=joined("threshold"),
        default_left=joined("default_left"),
        child=joined("child"),
        leaf_tree_ptr=joined_ptr("leaf_tree_ptr"),
        leaf_ptr=np.concatenate(
            ([0], np.cumsum(np.concatenate([np.diff(forest.leaf_ptr) for forest in forests])))
        ).astype(np.int64),
        codes=np.concatenate(codes),
        weights=joined("weights"),
        values=values,
        atom=atom,
        row_ids=np.empty(0, np.int32),
    )


def save(folder: Path, forest: Forest, header: dict[str, Any], extra: dict[str, Any]) -> None:
    """Writes ``forest.npz`` and ``forest.json`` (written last, so half a folder does not load)."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {field.name: getattr(forest, field.name) for field in fields(forest)}
    np.savez_compressed(folder / "forest.npz", **arrays, **extra)
    text = json.dumps(
        {"format": FORMAT, "version": list(FORMAT_VERSION), **header}, indent=1, allow_nan=False
    )
    (folder / "forest.json").write_text(text, encoding="utf-8")


def load(
    folder: Path, n_columns_key: str, extra: dict[str, str]
) -> tuple[Forest, dict[str, Any], dict]:
    """Reads what `save` wrote and believes none of it before it is checked.

    Args:
        folder: where it lies.
        n_columns_key: header entry that holds the number of columns.
        extra: further arrays that must be there, with their dtype kinds.

    Raises:
        ArtefactError: a file is missing, damaged, of a newer version, or its arrays do not describe
            a forest (an index out of range, a cycle, pickled content).
    """
    header = _read_header(folder / "forest.json")
    n_columns = header.get(n_columns_key)
    if not isinstance(n_columns, int) or isinstance(n_columns, bool) or not 0 < n_columns < 2**31:
        raise ArtefactError(
            f"{folder / 'forest.json'}: {n_columns_key!r} must be a positive integer"
        )
    kinds = {
        "tree_ptr": "int64",
        "feature": "int32",
        "threshold": "float32",
        "default_left": "uint8",
        "child": "int32",
        "leaf_tree_ptr": "int64",
        "leaf_ptr": "int64",
        "codes": "uint16 int32",
        "weights": "float32",
        "values": "float64",
        "atom": "uint8",
        "row_ids": "int32",
        **extra,
    }
    arrays = _read_arrays(folder / "forest.npz", kinds)
    forest = Forest(**{field.name: arrays[field.name] for field in fields(Forest)})
    problem = _inconsistency(forest, n_columns)
    if problem is not None:
        raise ArtefactError(f"{folder / 'forest.npz'} is not a forest: {problem}")
    return forest, header, {name: arrays[name] for name in extra}


def _read_header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ArtefactError(f"{path} does not describe a {FORMAT}")
    version = header.get("version")
    if (
        not isinstance(version, list)
        or len(version) != 2
        or not all(isinstance(part, int) and part >= 0 for part in version)
    ):
        raise ArtefactError(f"{path}: 'version' must be [major, minor], not {version!r}")
    if version[0] > FORMAT_VERSION[0]:
        raise ArtefactError(
            f"{path} has format {version[0]}, this library reads up to {FORMAT_VERSION[0]}; "
            "a newer foretell is needed"
        )
    return header


def _read_arrays(path: Path, kinds: dict[str, str]) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
            names = {entry.filename for entry in archive.infolist()}
        if total > _MAX_BYTES:
            raise ArtefactError(f"{path} would unpack to {total} bytes, more than {_MAX_BYTES}")
        expected = {f"{name}.npy" for name in kinds}
        if names != expected:
            raise ArtefactError(f"{path} holds {sorted(names ^ expected)} too many or too few")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in kinds}
    except ArtefactError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        zipfile.BadZipFile,
        NotImplementedError,
    ) as error:
        raise ArtefactError(f"{path} cannot be read: {error}") from error
    except Exception as error:  # zlib.error and what else a damaged archive brings
        raise ArtefactError(f"{path} is damaged: {error}") from error
    for name, array in arrays.items():
        if array.dtype.name not in kinds[name].split() or array.ndim != 1:
            raise ArtefactError(
                f"{path}: {name!r} is {array.dtype.name} with {array.ndim} axes, "
                f"expected {kinds[name]} with 1"
            )
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def check(forest: Forest, n_columns: int) -> str | None:
    """What is wrong with arrays that claim to be a forest, or None."""
    for field in fields(Forest):
        if getattr(forest, field.name).ndim != 1:
            return f"{field.name!r} does not have 1 axis"
    return _inconsistency(forest, n_columns)


def _is_ptr(ptr: NDArray[np.int64], total: int) -> bool:
    return bool(len(ptr) >= 2 and ptr[0] == 0 and ptr[-1] == total and (np.diff(ptr) >= 1).all())


def _inconsistency(forest: Forest, n_columns: int) -> str | None:
    n_nodes = len(forest.feature)
    if any(len(a) != n_nodes for a in (forest.threshold, forest.default_left, forest.child)):
        return "node arrays differ in length"
    if not _is_ptr(forest.tree_ptr, n_nodes):
        return "'tree_ptr' does not divide the nodes"
    if not _is_ptr(forest.leaf_tree_ptr, len(forest.leaf_ptr) - 1):
        return "'leaf_tree_ptr' does not divide the leaves"
    if len(forest.leaf_tree_ptr) != len(forest.tree_ptr):
        return "trees of nodes and of leaves differ in number"
    if not _is_ptr(forest.leaf_ptr, len(forest.codes)) or len(forest.weights) != len(forest.codes):
        return "'leaf_ptr' does not divide the codes"
    if len(forest.values) == 0 or len(forest.atom) != len(forest.values):
        return "'values' and 'atom' differ in length"
    if len(forest.row_ids) not in (0, len(forest.values)):
        return "'row_ids' and 'values' differ in length"
    if int(forest.codes.min()) < 0 or int(forest.codes.max()) >= len(forest.values):
        return "a code lies outside 'values'"
    if not np.isfinite(forest.values).all() or (np.diff(forest.values) < 0).any():
        return "'values' is not ascending and finite"
    if not np.isfinite(forest.weights).all() or not (forest.weights > 0).all():
        return "a weight is not positive"
    if np.isnan(forest.threshold).any():
        return "a threshold is not a number"
    if forest.feature.min() < -1 or forest.feature.max() >= n_columns:
        return "a split names a column that does not exist"
    tree = np.repeat(np.arange(forest.n_trees), np.diff(forest.tree_ptr))
    position = np.arange(n_nodes) - forest.tree_ptr[tree]
    inner = forest.feature >= 0
    size = np.diff(forest.tree_ptr)[tree]
    child = forest.child.astype(np.int64)
    if (child[inner] <= position[inner]).any() or (child[inner] + 1 >= size[inner]).any():
        return "a child does not come after its parent within the tree"
    leaves = np.diff(forest.leaf_tree_ptr)[tree]
    if (child[~inner] < 0).any() or (child[~inner] >= leaves[~inner]).any():
        return "a leaf's number is out of range"
    return None
