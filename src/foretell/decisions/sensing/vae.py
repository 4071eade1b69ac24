"""What a panel may show: the decoder of a partial VAE, given the code of what is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from foretell.decisions.sensing.modelled import ModelledDonors, stratified_normals
from foretell.errors import DataError, ParameterError
from foretell.learners.restoring import restored
from foretell.learners.risk.partial_vae import HiddenValues, PartialVAELearner
from foretell.training import fit, use_threads

_LEAST_PATIENTS = 16
_CODES_AT_ONCE = 200_000


class VAEDonors(ModelledDonors):
    """Draws a panel's values from a partial VAE (EDDI, Ma et al. 2019).

    Codes are drawn from ``q(z | x_S)`` of what is known, features from the decoder with its noise:
    ``p(x_j | x_S)`` as far as ``q`` is the posterior of the code, which is a normal here.

    Args:
        values: (N, F) training patients.
        seen: (N, F) bool, which values are there.
        size: draws for a patient.
        code: dimensions of the code.
        hidden: units of the hidden layers.
        max_steps: of the optimizer.
        batch_size: patients a step.
        learning_rate: the highest of the schedule.
        random_state: of weights, masks and codes.
        threads: of torch on a CPU.

    Raises:
        DataError: shapes do not fit, a value that was seen is not finite, or there are fewer than
            16 patients.
        ParameterError: a number is out of range.
        TrainingError: training failed.
    """

    def __init__(
        self,
        values: ArrayLike,
        seen: ArrayLike,
        *,
        size: int = 24,
        code: int = 8,
        hidden: int = 64,
        max_steps: int = 4000,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        random_state: int = 0,
        threads: int | None = None,
    ) -> None:
        if min(code, hidden, max_steps, batch_size) < 1:
            raise ParameterError("code, hidden, max_steps and batch_size must be positive")
        z, S = self._measure(values, seen, size)
        if len(z) < _LEAST_PATIENTS:
            raise DataError(
                f"{len(z)} patients are too few for a net: give at least {_LEAST_PATIENTS}"
            )
        self.code, self.hidden, self.threads = code, hidden, threads
        examples = HiddenValues(z, S, code=code)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(random_state)
            self.learner = self._untrained()
        fit(
            self.learner, examples, max_steps=max_steps, batch_size=min(batch_size, len(z)),
            learning_rate=learning_rate, weight_decay=1e-4, seed=random_state, threads=threads,
            device="cpu",
        )  # fmt: skip

    def _untrained(self) -> PartialVAELearner:
        return PartialVAELearner(self.n_features, self.code, hidden=self.hidden)

    def _draws(
        self, z: NDArray[np.float64], given: NDArray[np.bool_], columns: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        noise = stratified_normals(self.size, self.code + len(columns))
        codes = torch.from_numpy(noise[:, : self.code].astype(np.float32))
        out = np.empty((len(z), self.size, len(columns)))
        step = max(1, _CODES_AT_ONCE // self.size)
        with use_threads(self.threads), torch.inference_mode():
            spread = self.learner.decode(torch.zeros(1, 2 * self.code), {}).log_variance
            around = (0.5 * spread[columns]).exp().double().numpy() * noise[:, self.code :]
            for at in range(0, len(z), step):
                mine = slice(at, at + step)
                batch = {
                    "x": torch.from_numpy(z[mine].astype(np.float32)),
                    "seen": torch.from_numpy(given[mine]),
                }
                told = self.learner(batch)
                wide = (0.5 * told.code_log_variance).exp()
                drawn = told.code_mean[:, None] + codes * wide[:, None]
                out[mine] = self.learner.features(drawn)[..., columns].double().numpy() + around
        return out

    def _state(self) -> tuple[dict[str, Any], dict[str, NDArray]]:
        weights = {f"net.{n}": t.numpy() for n, t in self.learner.state_dict().items()}
        return {"code": self.code, "hidden": self.hidden, "threads": self.threads}, weights

    def _restore(self, config: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> None:
        self.code, self.hidden = int(config["code"]), int(config["hidden"])
        self.threads = config["threads"]
        self.learner = restored(self._untrained, arrays, "net.")
