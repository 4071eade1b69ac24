"""Models of the package ``transformers`` as encoders, from a local folder or from a description."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from foretell.errors import DataError, ParameterError

NAME = "hugging_face"
_TABLES = ("position_embeddings", "token_type_embeddings", "wpe", "wte")


class HuggingFaceEncoder(nn.Module):
    """States of tokens by a pretrained transformer, or by one of its form with random weights.

    Nothing is fetched and no code of a model is run: the folder must hold ``config.json`` and
    weights as safetensors of an architecture that ``transformers`` itself knows.

    Args:
        config: what a ``config.json`` says, ``model_type`` included; weights are random.

    Raises:
        ParameterError: an unknown kind of model, or one without embeddings of tokens.
        ImportError: the package is not there: install ``foretell[language]``.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        package = _package()
        self._take(package.AutoModel.from_config(_configured(package, config)))

    @classmethod
    def from_folder(cls, folder: str | Path) -> HuggingFaceEncoder:
        """Reads a model that ``save_pretrained`` wrote.

        Raises:
            DataError: the folder does not hold such a model with weights as safetensors.
        """
        package = _package()
        encoder = cls.__new__(cls)
        nn.Module.__init__(encoder)
        try:
            model = package.AutoModel.from_pretrained(
                str(Path(folder).resolve(strict=True)), local_files_only=True,
                use_safetensors=True, trust_remote_code=False, torch_dtype=torch.float32,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(
                f"no model can be read: {str(error).splitlines()[0] if str(error) else error!r}",
                file=str(folder),
                hint="The folder needs config.json and model.safetensors of a model that "
                "transformers knows without further code",
            ) from error
        encoder._take(model)
        return encoder

    def _take(self, model: Any) -> None:
        if getattr(model.config, "is_encoder_decoder", False):
            model = model.get_encoder()
        if getattr(model, "pooler", None) is not None:
            model.pooler = None  # nothing reads it, and weights without gradient only cost memory
        self.model = model
        self.config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
        words = model.get_input_embeddings()
        if not isinstance(words, nn.Embedding):
            raise ParameterError(f"a {type(model).__name__} has no table of tokens")
        self.codes, self.inputs = words.num_embeddings, words.embedding_dim
        self.width: int = model.config.hidden_size
        self._types = int(getattr(model.config, "type_vocab_size", 0) or 0)
        self._examples = 0
        # These tables are asked for one row of positions, which is then added to every example:
        # asked once for each example, their use is that of any other layer, and is clipped as such.
        for name, child in model.named_modules():
            if isinstance(child, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
                child.register_forward_pre_hook(self._repeat)

    def _repeat(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        codes = inputs[0]
        codes = codes.unsqueeze(0) if codes.dim() == 1 else codes
        return (codes.expand(self._examples, -1) if len(codes) == 1 else codes, *inputs[1:])

    def embed(self, tokens: Tensor) -> Tensor:
        """Vectors of the tokens ``(B, T, E)``, before positions are added."""
        vectors: Tensor = self.model.get_input_embeddings()(tokens)
        return vectors

    def forward(self, embedded: Tensor, mask: Tensor, segment: Tensor | None = None) -> Tensor:
        """``(B, T, E)`` with mask ``(B, T)`` to ``(B, T, width)``.

        Args:
            embedded: vectors of tokens.
            mask: which of them are there.
            segment: which text a token is of, 0 or 1; models without such a table do not see it.

        Raises:
            DataError: more tokens than the model has positions.
        """
        most = self.config.get("max_position_embeddings")
        if most is not None and embedded.shape[1] > most > 0:
            raise DataError(
                f"a text of {embedded.shape[1]} pieces is longer than the {most} positions of the "
                "model", hint="Set max_length",
            )  # fmt: skip
        self._examples = len(embedded)
        more = {}
        if self._types > 1:
            given = mask.new_zeros(mask.shape, dtype=torch.long) if segment is None else segment
            more["token_type_ids"] = given
        output = self.model(
            inputs_embeds=embedded, attention_mask=mask.long(), return_dict=True, **more
        )
        states: Tensor = output.last_hidden_state
        return states


def _configured(package: Any, config: Mapping[str, Any]) -> Any:
    values = dict(config)
    kind = values.pop("model_type", None)
    if not isinstance(kind, str):
        raise ParameterError("the description of a model needs a model_type, such as 'distilbert'")
    for remote in ("auto_map", "transformers_version"):
        values.pop(remote, None)
    try:
        return package.AutoConfig.for_model(kind, **values)
    except (KeyError, TypeError, ValueError) as error:
        raise ParameterError(f"no model of type {kind!r} can be made: {error}") from error


def _package() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "Hugging Face models need the package transformers: pip install 'foretell[language]'"
        ) from error
    return transformers
