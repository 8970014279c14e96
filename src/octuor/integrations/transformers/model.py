"""A causal language model of transformers whose forward pass is ours.

B rows, S columns of this call, P columns before them, L layers, E experts, V vocab_size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from octuor.api import Model, load
from octuor.errors import RequestError
from octuor.generate import check_ids
from octuor.integrations.transformers.cache import SequencesCache
from octuor.integrations.transformers.config import transformers_config
from octuor.integrations.transformers.loading import Loading, read_loading
from octuor.integrations.transformers.passes import run

GENERATION_CONFIG = "generation_config.json"


class _OctuorForCausalLM(PreTrainedModel, GenerationMixin):
    """Made by from_pretrained. It has no parameters: weights stay where Octuor keeps them, and do not learn.

    octuor  the model underneath
    """

    config_class = PretrainedConfig
    main_input_name = "input_ids"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = True  # whatever a program asks for, ours runs

    def __init__(self, octuor: Model) -> None:
        super().__init__(transformers_config(octuor.checkpoint))
        self.octuor = octuor
        self.generation_config = _generation_config(octuor)
        self.eval()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any) -> Any:
        """Open a model as octuor.load does; None: the pocket model.

        kwargs  octuor.load's (threads, context, cache_dtype, resident, memory, adapter), and transformers'. Of
                those, load_in_4bit and load_in_8bit pack the checkpoint once, in q4 or q8; where and how weights are
                placed (device_map, dtype, attn_implementation, ...) decides itself here and is ignored; others are
                TypeErrors

        Raises what octuor.load does, TypeError.
        """
        return _open(read_loading(pretrained_model_name_or_path, kwargs))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """Of logits."""
        return torch.float32

    def to(self, *_: Any, **__: Any) -> Any:
        """Itself: programs move models as a habit, this one stays where Octuor runs and takes ids of any device."""
        return self

    cuda = half = bfloat16 = float = to

    def get_input_embeddings(self) -> Any:
        """Raise RequestError: weights are not torch's."""
        raise RequestError("embeddings: expected a model of PyTorch's parameters, found one that runs in Octuor")

    def save_pretrained(self, *_: Any, **__: Any) -> None:
        """Raise RequestError."""
        raise RequestError(
            "save_pretrained: weights are not torch's; octuor convert IN OUT --to huggingface writes them"
        )

    def _prepare_cache_for_generation(
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *_: Any
    ) -> None:
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = SequencesCache(self.octuor)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: SequencesCache | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_router_logits: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        return_dict: bool | None = None,
        **unsupported: Any,
    ) -> MoeCausalLMOutputWithPast | tuple[Any, ...]:
        """Logits of the last tokens, and what they leave in the cache.

        input_ids        [B, S], what follows the P columns in past_key_values
        attention_mask   [B, P + S] or [B, S], 0 for padding, which may lie left or right; None: all are tokens
        position_ids     [B, S] as they follow from the mask, no others
        labels           [B, S], -100 where none: adds the loss
        logits_to_keep   of how many last columns, or of which; 0: all
        returns          logits [B, kept, V] float32, 0 for padding; router_logits L x [B * S, E] if asked for

        Raises RequestError for what this cannot do: embeddings as inputs, attention maps, hidden states of layers.
        """
        asked = [name for name, value in unsupported.items() if value is not None and value is not False]
        if input_ids is None or asked:
            raise RequestError(f"forward: expected input_ids, found {', '.join(asked) or 'none'}, which Octuor has not")
        ids = input_ids.detach().cpu().numpy().astype(np.int32)  # [B, S]
        check_ids(ids.ravel().tolist(), self.octuor.config.vocab_size)
        cache = SequencesCache(self.octuor) if past_key_values is None else past_key_values
        cache.begin(len(ids))
        mask = _mask_of(attention_mask, cache.get_seq_length(), ids.shape)
        if position_ids is not None:
            _check_positions(position_ids, cache.mask, mask)
        columns = _columns(logits_to_keep, ids.shape[1])
        found = run(self.octuor, cache, ids, mask, columns, with_routes=bool(output_router_logits))
        logits = torch.from_numpy(found.logits).to(input_ids.device)
        output = MoeCausalLMOutputWithPast(
            loss=None if labels is None else self.loss_function(logits, labels, vocab_size=logits.shape[-1]),
            logits=logits,
            past_key_values=None if use_cache is False else cache,
            router_logits=tuple(map(torch.from_numpy, found.router_logits)) if output_router_logits else None,
        )
        return output.to_tuple() if return_dict is False else output


class MixtralForCausalLM(_OctuorForCausalLM):
    """A mixture of experts, under the name that transformers' pipelines know."""


class MistralForCausalLM(_OctuorForCausalLM):
    """A dense model."""


class AutoModelForCausalLM:
    """What transformers' own is for."""

    @staticmethod
    def from_pretrained(pretrained_model_name_or_path: str | Path | None = None, **kwargs: Any) -> Any:
        """As MixtralForCausalLM.from_pretrained, of the class that the model is."""
        return _open(read_loading(pretrained_model_name_or_path, kwargs))


def _open(loading: Loading) -> _OctuorForCausalLM:
    octuor = load(loading.source, **loading.options)
    return MistralForCausalLM(octuor) if octuor.config.is_dense else MixtralForCausalLM(octuor)


def _generation_config(octuor: Model) -> GenerationConfig:
    """The checkpoint's own, else one that ends at EOS; padding is EOS, as Mistral's models have no token for it."""
    source = octuor.checkpoint.source
    if source.is_dir() and (source / GENERATION_CONFIG).is_file():
        config = GenerationConfig.from_pretrained(source)
    else:
        config = GenerationConfig()
    if octuor.checkpoint.tokenizer is not None:
        tokenizer = octuor.tokenizer
        for name, value in (("bos", tokenizer.bos_id), ("eos", tokenizer.eos_id), ("pad", tokenizer.eos_id)):
            if getattr(config, f"{name}_token_id") is None:
                setattr(config, f"{name}_token_id", value)
    return config


def _mask_of(attention_mask: torch.Tensor | None, past: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """[B, S] bool: which of this call's columns are tokens."""
    if attention_mask is None:
        return np.ones(shape, dtype=bool)
    n_rows, n_columns = shape
    if tuple(attention_mask.shape) not in ((n_rows, n_columns), (n_rows, past + n_columns)):
        raise RequestError(
            f"attention_mask: expected the shape {(n_rows, past + n_columns)}, found {tuple(attention_mask.shape)}"
        )
    return attention_mask[:, -n_columns:].detach().cpu().numpy() != 0


def _check_positions(position_ids: torch.Tensor, past: NDArray[np.bool_], mask: NDArray[np.bool_]) -> None:
    own = past.sum(axis=1, keepdims=True) + mask.cumsum(axis=1) - 1
    found = np.broadcast_to(position_ids.detach().cpu().numpy(), mask.shape)
    if (found != own)[mask].any():
        raise RequestError("position_ids: expected each token's place among its row's tokens, found others")


def _columns(kept: int | torch.Tensor, n: int) -> NDArray[np.int64]:
    """Which columns' logits are wanted, of n."""
    if isinstance(kept, int):
        return np.arange(n)[-kept:] if kept else np.arange(n)
    return np.arange(n)[kept.cpu().numpy()]
