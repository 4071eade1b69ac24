"""The one file that leaves a hospital: numbers and text, never a pickle, hashed and signed.

A bundle is a safetensors file whose header carries one JSON document. Opening a stranger's bundle
reads numbers and text; it cannot run code.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from foretell.data.clinical.encoding import PiecewiseLinearEncoder
from foretell.data.clinical.features import CausalFeatureBuilder
from foretell.errors import (
    ArtefactError,
    ForetellError,
    IncompatibleRepresentationError,
    ParameterError,
)
from foretell.estimators.continual.site import Episodes, SiteRecord, frozen_hash
from foretell.learners.restoring import restored
from foretell.learners.risk.feed_forward import FeedForwardRiskLearner, FeedForwardShape

SCHEMA = 3
"""1 had no standards of the first layer's units, 2 no warm-up."""
_DOCUMENT = "foretell.site_bundle"
_LARGEST_DOCUMENT = 16 * 2**20
_IDENTIFYING = re.compile(r"(^|_)(mrn|ssn|name|phone|fax|email|zip|address|date|birth|ids?)(_|$)")


@dataclass(frozen=True, eq=False)
class SiteBundle:
    """All that the next hospital needs, and nothing of a patient but released representations.

    Attributes:
        parameters: of the model.
        features: the feature builder with its scaling tables; None for models of matrices.
        encoder: knots, or None.
        n_features: F.
        constants: (F,) values of features that did not vary at the first site, else NaN.
        theta: weights by name.
        precision: Omega by name.
        sites: records in the order of training.
        current_site: that wrote the bundle.
        episodes: released representations by site.
        adapters: scale and shift of inputs by site.
        audits: reports by site.
        not_finite: entries of the Fisher information that counted as 0.
        standards: mean and spread (D,) of the units of the first layer at the first site.
        sha256: of all of it.
        signer: public key in hexadecimal, or None.
        schema: version of the format.
    """

    parameters: dict[str, Any]
    features: dict[str, Any] | None
    encoder: dict[str, Any] | None
    n_features: int
    constants: NDArray[np.float32]
    theta: dict[str, NDArray[np.float32]]
    precision: dict[str, NDArray[np.float32]]
    sites: tuple[SiteRecord, ...]
    current_site: str
    episodes: dict[str, Episodes]
    standards: tuple[NDArray[np.float32], NDArray[np.float32]]
    adapters: dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = field(
        default_factory=dict
    )
    audits: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_finite: int = 0
    sha256: str = ""
    signer: str | None = None
    schema: int = SCHEMA

    def learner(self) -> FeedForwardRiskLearner:
        """The net with its weights.

        Raises:
            ValueError: weights are missing or have the wrong shape.
        """
        width = self.n_features
        if self.encoder is not None:
            width = PiecewiseLinearEncoder.from_dict(self.encoder).n_outputs
        told = self.parameters
        shape = FeedForwardShape(width, tuple(told["hidden"]), told["dropout"])
        learner = restored(lambda: FeedForwardRiskLearner(shape), self.theta)
        if self.parameters["freeze_first_layer"]:
            learner.first.requires_grad_(False)
        return learner

    @property
    def frozen(self) -> str:
        """Hash of the first layer."""
        return frozen_hash(self.learner())

    def check_episodes(self, frozen: str) -> None:
        """Refuses episodes of another first layer.

        Raises:
            IncompatibleRepresentationError: naming the site.
        """
        for name, episode in self.episodes.items():
            if episode.frozen != frozen:
                raise IncompatibleRepresentationError(
                    f"the episodes of {name!r} were made by the first layer "
                    f"{episode.frozen[:12]}, this model has {frozen[:12]}: their units mean "
                    "something else"
                )

    def summary(self) -> dict[str, Any]:
        """What a person wants to see, JSON values."""
        return {
            "schema": self.schema,
            "sha256": self.sha256,
            "signer": self.signer,
            "frozen_layer": self.frozen,
            "written_by": self.current_site,
            "hidden": list(self.parameters["hidden"]),
            "warm_up": [s.name for s in self.sites if s.warm_up],
            "sites": [s.to_dict() for s in self.sites],
            "episodes": {
                n: {"rows": len(e.label), "positives": int(e.label.sum()), "width": e.h.shape[1]}
                for n, e in self.episodes.items()
            },
            "adapters": sorted(self.adapters),
            "audits": self.audits,
            "linked": {n: a["linkage"] for n, a in self.audits.items() if "linkage" in a},
            "fisher_entries_not_finite": self.not_finite,
        }


def write_bundle(
    path: str | Path, bundle: SiteBundle, *, private_key: bytes | None = None
) -> SiteBundle:
    """Writes a bundle, atomically; the bundle with its hash.

    Raises:
        ParameterError: a feature is named like an identifier, or the key is none.
    """
    if bundle.features is not None:
        for name in bundle.features["spec"]["numbers"]:
            if _IDENTIFYING.search(str(name).lower()):
                raise ParameterError(f"the feature {name!r} is named like an identifier")
    arrays: dict[str, NDArray[Any]] = {"constants": bundle.constants}
    arrays |= {f"theta/{n}": v for n, v in bundle.theta.items()}
    arrays |= {f"precision/{n}": v for n, v in bundle.precision.items()}
    arrays["standards/centre"], arrays["standards/spread"] = bundle.standards
    # Names of sites are free text: tensors are numbered, the document has the names.
    episodes, adapters = list(bundle.episodes), list(bundle.adapters)
    for i, name in enumerate(episodes):
        arrays[f"episodes/{i}/h"] = bundle.episodes[name].h
        arrays[f"episodes/{i}/label"] = bundle.episodes[name].label
    for i, name in enumerate(adapters):
        arrays[f"adapters/{i}/scale"], arrays[f"adapters/{i}/shift"] = bundle.adapters[name]
    arrays = {n: np.ascontiguousarray(v) for n, v in arrays.items()}
    document = {
        "schema": SCHEMA,
        "parameters": bundle.parameters,
        "features": bundle.features,
        "encoder": bundle.encoder,
        "n_features": bundle.n_features,
        "frozen_layer": bundle.frozen,
        "sites": [s.to_dict() for s in bundle.sites],
        "current_site": bundle.current_site,
        "episodes": [{"site": n, "frozen": bundle.episodes[n].frozen} for n in episodes],
        "adapters": adapters,
        "audits": bundle.audits,
        "not_finite": bundle.not_finite,
    }
    text = json.dumps(_finite(document), sort_keys=True, allow_nan=False, default=_plain)
    digest = _digest(text, arrays)
    header = {_DOCUMENT: text, "sha256": digest}
    signer = None
    if private_key is not None:
        signer, header["signature"] = _signed(private_key, digest)
        header["public_key"] = signer
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    save_file(arrays, partial, metadata=header)
    os.replace(partial, path)
    return SiteBundle(**{**vars(bundle), "sha256": digest, "signer": signer})


def read_bundle(path: str | Path, *, trusted_keys: Sequence[bytes] | None = None) -> SiteBundle:
    """Reads a bundle and verifies all of it: hash, signature, shapes, finite numbers, layer.

    Args:
        path: of the file.
        trusted_keys: public keys (32 bytes each) of which one must have signed. With None a
            bundle without a signature is taken, too; a signature that is there must hold.

    Raises:
        ArtefactError: damaged, tampered with, newer, or signed by nobody who is trusted.
        IncompatibleRepresentationError: its episodes are of another first layer.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as opened:
            header = opened.metadata() or {}
            text = header.get(_DOCUMENT, "")
            if not text or len(text) > _LARGEST_DOCUMENT:
                raise ArtefactError(f"{path} is not a site bundle")
            document = json.loads(text)
            _refuse_newer(document, path)
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        if isinstance(error, ForetellError):
            raise
        raise ArtefactError(f"{path} cannot be read as a site bundle: {error}") from error
    digest = _digest(text, arrays)
    if digest != header.get("sha256"):
        raise ArtefactError(f"{path} is not what was written: its hash does not fit")
    signer = _verified(header, digest, trusted_keys, path)
    try:
        bundle = _built(document, arrays, digest, signer)
        layer = bundle.frozen
    except ForetellError as error:
        raise ArtefactError(f"{path} is not a valid site bundle: {error}") from error
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        problem = f"{type(error).__name__} {error}"
        raise ArtefactError(f"{path} is not a valid site bundle: {problem}") from error
    if layer != document["frozen_layer"] and bundle.parameters["freeze_first_layer"]:
        raise IncompatibleRepresentationError(
            f"{path} says that its first layer is {str(document['frozen_layer'])[:12]}, but it is "
            f"{layer[:12]}"
        )
    if bundle.parameters["freeze_first_layer"]:
        bundle.check_episodes(layer)
    return bundle


def new_key() -> tuple[bytes, bytes]:
    """A private and a public Ed25519 key, 32 bytes each."""
    keys = _ed25519()
    private = keys.Ed25519PrivateKey.generate()
    return private.private_bytes_raw(), private.public_key().public_bytes_raw()


def _built(
    document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], digest: str, signer: str | None
) -> SiteBundle:
    for name, values in arrays.items():
        if name != "constants" and not np.isfinite(values).all():
            raise ValueError(f"{name} is not finite")

    def part(prefix: str) -> dict[str, NDArray[np.float32]]:
        start = f"{prefix}/"
        return {
            n[len(start) :]: np.asarray(v, np.float32)
            for n, v in arrays.items()
            if n.startswith(start)
        }

    size = int(document["n_features"])
    constants = np.asarray(arrays["constants"], np.float32)
    if constants.shape != (size,):
        raise ValueError("the constants do not fit the features")
    if document["features"] is not None:
        builder = CausalFeatureBuilder.from_dict(document["features"])
        if builder.n_features != size or builder.statistics is None:
            raise ValueError("the features have another number, or no scaling tables")
    encoder = document["encoder"]
    if encoder is not None:
        knots = PiecewiseLinearEncoder.from_dict(encoder).knots
        if knots is None or len(knots) != size:
            raise ValueError("the encoder has another number of features")
    episodes = {}
    width = int(document["parameters"]["hidden"][0])
    for i, told in enumerate(document["episodes"]):
        h, label = arrays[f"episodes/{i}/h"], arrays[f"episodes/{i}/label"]
        if h.dtype != np.float16 or h.ndim != 2 or h.shape != (len(label), width) or not len(h):
            raise ValueError(f"the episodes {i} do not fit the first layer")
        if not np.isin(label, (0, 1)).all():
            raise ValueError(f"a label of the episodes {i} is neither 0 nor 1")
        episodes[str(told["site"])] = Episodes(h, label.astype(np.int8), str(told["frozen"]))
    none = {"centre": np.zeros(width, np.float32), "spread": np.ones(width, np.float32)}
    standards = part("standards") or none
    if {n: v.shape for n, v in standards.items()} != {"centre": (width,), "spread": (width,)}:
        raise ValueError("the standards do not fit the first layer")
    if not (standards["spread"] > 0).all():
        raise ValueError("a spread is not positive")
    adapters = {
        str(n): (
            np.asarray(arrays[f"adapters/{i}/scale"], np.float32),
            np.asarray(arrays[f"adapters/{i}/shift"], np.float32),
        )
        for i, n in enumerate(document["adapters"])
    }
    sites = tuple(SiteRecord.from_dict(dict(s)) for s in document["sites"])
    known = {s.name for s in sites}
    if len(known) != len(sites) or not {*episodes, *adapters, document["current_site"]} <= known:
        raise ValueError("sites, episodes and adapters do not go together")
    if not all(math.isfinite(s.intercept) and 0 <= s.rate <= 1 for s in sites):
        raise ValueError("an intercept or a rate is out of range")
    if not all(0 < s.rate < 1 and math.isfinite(s.episodes_gap) for s in sites if s.trained):
        raise ValueError("the rate of a site that was trained on is out of range")
    bundle = SiteBundle(
        parameters=dict(document["parameters"]),
        features=document["features"],
        encoder=encoder,
        n_features=size,
        constants=constants,
        theta=part("theta"),
        precision=part("precision"),
        sites=sites,
        current_site=str(document["current_site"]),
        episodes=episodes,
        standards=(standards["centre"], standards["spread"]),
        adapters=adapters,
        audits=dict(document["audits"]),
        not_finite=int(document["not_finite"]),
        sha256=digest,
        signer=signer,
        schema=int(document["schema"]),
    )
    parameters = dict(bundle.learner().named_parameters())
    for name, values in bundle.precision.items():
        if tuple(parameters[name].shape) != values.shape or (values < 0).any():
            raise ValueError(f"the precision of {name} has another shape or is negative")
    width = bundle.learner().shape.inputs
    if any(a.shape != (width,) or b.shape != (width,) for a, b in adapters.values()):
        raise ValueError("an adapter does not fit the inputs")
    return bundle


def _refuse_newer(document: Any, path: Path) -> None:
    if not isinstance(document, dict) or not isinstance(document.get("schema"), int):
        raise ArtefactError(f"{path} is not a site bundle: it has no schema version")
    if document["schema"] > SCHEMA:
        raise ArtefactError(
            f"{path} has schema {document['schema']}; this foretell reads up to {SCHEMA}. "
            "Install a newer foretell"
        )


def _digest(text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of the document and of every array with its name, type and shape."""
    digest = hashlib.sha256(hashlib.sha256(text.encode()).digest())
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name])
        digest.update(repr((name, values.dtype.str, values.shape)).encode())
        digest.update(hashlib.sha256(values.tobytes()).digest())
    return digest.hexdigest()


def _signed(private_key: bytes, digest: str) -> tuple[str, str]:
    try:
        key = _ed25519().Ed25519PrivateKey.from_private_bytes(private_key)
    except (ValueError, TypeError) as error:
        raise ParameterError("a private Ed25519 key has 32 bytes") from error
    return key.public_key().public_bytes_raw().hex(), key.sign(digest.encode()).hex()


def _verified(
    header: Mapping[str, str], digest: str, trusted: Sequence[bytes] | None, path: Path
) -> str | None:
    signature, public = header.get("signature"), header.get("public_key")
    if signature is None or public is None:
        if trusted is not None:
            raise ArtefactError(f"{path} is not signed")
        return None
    try:
        raw = bytes.fromhex(public)
        key = _ed25519().Ed25519PublicKey.from_public_bytes(raw)
        key.verify(bytes.fromhex(signature), digest.encode())
    except ParameterError:
        raise
    except Exception as error:  # cryptography raises several kinds for a bad key or signature
        raise ArtefactError(f"{path} has a signature that does not hold") from error
    if trusted is not None and raw not in {bytes(k) for k in trusted}:
        raise ArtefactError(f"{path} is signed by {public[:16]}, who is not trusted")
    return raw.hex()


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError:
        raise ParameterError(
            "signatures need the package cryptography: pip install cryptography"
        ) from None
    return ed25519


def _finite(value: Any) -> Any:
    """JSON values with None for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be part of a bundle: {value!r}")
