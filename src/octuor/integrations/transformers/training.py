"""A model of PyTorch's parameters under the names of Mixtral's checkpoints: what transformers' Trainer and peft train.

Its forward pass is model.py's over ops/torch.py, so a batch costs what `octuor tune` pays for it: padding is not
computed, logits exist for a few rows at a time. B rows, S columns, V vocab_size, D dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MoeCausalLMOutputWithPast

from octuor.api import POCKET
from octuor.batch import Batch
from octuor.checkpoint import Checkpoint, open_checkpoint
from octuor.checkpoint.huggingface import places_of
from octuor.config import ModelConfig
from octuor.errors import RequestError
from octuor.generate import check_ids
from octuor.integrations.transformers.config import transformers_config
from octuor.ops.torch import TorchOps
from octuor.ops.torch_leaves import Layered
from octuor.quant import BF16, F16, F32
from octuor.tools.export.companions import huggingface_tokenizer
from octuor.tools.export.huggingface import write_folder
from octuor.train.loss import next_token_loss
from octuor.tune.forward import hidden_states
from octuor.weights import Leaf, Weights, build, weight_shapes

IGNORED = -100  # a label that the loss does not count
HEAD_ROWS = 512  # rows of logits that exist at once
_ROWS = {torch.float32: F32, torch.float16: F16, torch.bfloat16: BF16}


class MixtralForTraining(PreTrainedModel):
    """A Mixtral or Mistral whose weights learn; made by from_pretrained.

    Matrices are nn.Linear modules named as in Mixtral's checkpoints (model.layers.0.self_attn.q_proj,
    model.layers.0.block_sparse_moe.experts.0.w1, ...), so peft puts adapters where its target_modules say.
    """

    config_class = PretrainedConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        config = transformers_config(checkpoint)
        # peft would look for experts fused as transformers' own class of the plain name has them
        config.model_type = f"octuor_{config.model_type}"
        super().__init__(config)
        self.octuor_config: ModelConfig = checkpoint.config
        self.gradient_checkpointing = False
        self.loss_type = "ForCausalLM"  # that labels shift by one is how Trainer counts them
        self._tokenizer = huggingface_tokenizer(checkpoint)
        self._places = {
            name: places_of(name, shape, checkpoint.config)[0].tensor.removesuffix(".weight")
            for name, shape in weight_shapes(checkpoint.config)
        }
        for name, path in self._places.items():
            values = torch.from_numpy(np.array(checkpoint.get(name).to_f32(), dtype=np.float32))
            _put(self, path, _module(name, values.to(dtype)))

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | Path | None = None, *, dtype: torch.dtype = torch.float32
    ) -> MixtralForTraining:
        """Read a model of any format into parameters of dtype; None: the pocket model.

        Raises what opening a checkpoint does.
        """
        return cls(open_checkpoint(pretrained_model_name_or_path or POCKET), dtype)

    def get_input_embeddings(self) -> nn.Module:
        """The embedding."""
        return self.get_submodule(self._places["embed"])

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.get_submodule(self._places["lm_head"])

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_router_logits: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **unsupported: Any,
    ) -> MoeCausalLMOutputWithPast:
        """Loss, logits, or both.

        input_ids             [B, S]
        attention_mask        [B, S], 0 for padding, which may lie left or right; None: all are tokens
        position_ids          [B, S], where a place 0 begins a text of its own within a row; None: a row is one text
        labels                [B, S], the ids themselves, -100 where the loss does not count
        output_router_logits  add the config's router_aux_loss_coef times the load-balancing loss to the loss; None: as
                              the config says
        num_items_in_batch    what the sum of losses is divided by, where gradients of several batches make one step;
                              None: the labels that count
        returns               loss where there are labels; logits [B, S, V] float32, 0 for padding, unless it is
                              training with labels; aux_loss where it is asked for

        Raises RequestError for what this cannot do, such as embeddings as inputs or a cache.
        """
        asked = [name for name, value in unsupported.items() if value is not None and value is not False]
        if asked:
            raise RequestError(f"forward: expected ids and labels, found {', '.join(asked)}, which training has not")
        ids = input_ids.detach().cpu().numpy().astype(np.int32)
        check_ids(ids.ravel().tolist(), self.octuor_config.vocab_size)
        is_token = np.ones(ids.shape, bool) if attention_mask is None else attention_mask.cpu().numpy() != 0
        batch = _batch(ids, is_token, None if position_ids is None else position_ids.cpu().numpy())
        if output_router_logits is None:
            output_router_logits = getattr(self.config, "output_router_logits", False)  # a dense model has none
        wants_logits = labels is None or not self.training
        targets = None if labels is None else _targets(labels, is_token, batch).to(self.device)
        every = torch.arange(len(batch.tokens))
        rows = every if targets is None or wants_logits else every[(targets != IGNORED).cpu()]
        hidden, balance = hidden_states(
            TorchOps(str(self.device), self.dtype), self._weights(), self.octuor_config,
            batch, rows.numpy().astype(np.int32),
            checkpointing=self.gradient_checkpointing and self.training, balanced=output_router_logits,
        )  # fmt: skip
        loss = None
        if targets is not None:
            loss = self._loss(hidden, targets[rows], num_items_in_batch)
            if balance is not None:
                balance = balance * self.octuor_config.n_experts_per_token  # even is 1 a choice in transformers
                loss = loss + self.config.router_aux_loss_coef * balance
        logits = None
        if wants_logits:
            flat = self.get_output_embeddings()(hidden.to(self.dtype)).float()
            logits = flat.new_zeros((*ids.shape, flat.shape[1]))
            logits[torch.from_numpy(is_token).to(flat.device)] = flat
        return MoeCausalLMOutputWithPast(loss=loss, logits=logits, aux_loss=balance)

    def save_pretrained(
        self, save_directory: str | Path, *_: Any, state_dict: Mapping[str, Tensor] | None = None, **__: Any
    ) -> None:
        """Write a folder that Octuor, transformers and others load, in the parameters' dtype, with the tokenizer."""
        tensors = self.state_dict() if state_dict is None else state_dict
        row = _ROWS[self.dtype]

        def values(name: str) -> NDArray[np.float32]:
            array: NDArray[np.float32] = tensors[f"{self._places[name]}.weight"].detach().float().cpu().numpy()
            return array

        write_folder(
            Path(save_directory), self.octuor_config, row, lambda name: [row.quantize(values(name))], self._tokenizer,
            overwrite=True,
        )  # fmt: skip

    def _weights(self) -> Weights:
        """The tree of modules as they stand: peft may have put others in their place."""
        return build(self.octuor_config, lambda name: _leaf(self.get_submodule(self._places[name]), self._places[name]))

    def _loss(self, hidden: Tensor, targets: Tensor, n_items: Tensor | int | None) -> Tensor:
        """Mean cross-entropy of the targets that count."""
        counts = targets != IGNORED
        head = self.get_output_embeddings()
        if type(head) is nn.Linear:
            mean = next_token_loss(hidden, head.weight, targets, counts, HEAD_ROWS)
        else:
            mean = F.cross_entropy(head(hidden[counts].to(self.dtype)).float(), targets[counts])
        return mean if n_items is None else mean * (counts.sum() / n_items)


def _module(name: str, values: Tensor) -> nn.Module:
    """An embedding, a norm's scale or a matrix, as what peft and Trainer know."""
    if name == "embed":
        return nn.Embedding.from_pretrained(values, freeze=False)
    if values.ndim == 1:
        scale = nn.RMSNorm(len(values), dtype=values.dtype)
        scale.weight = nn.Parameter(values)
        return scale
    linear = nn.Linear(values.shape[1], values.shape[0], bias=False, device="meta")
    linear.weight = nn.Parameter(values)
    return linear


def _put(root: nn.Module, path: str, module: nn.Module) -> None:
    """Hang a module at a dotted path, with plain modules on the way."""
    *parents, last = path.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    root.add_module(last, module)


def _leaf(module: nn.Module, path: str) -> Leaf:
    """What TorchOps reads: a parameter, or a module that adds to a matrix."""
    if type(module) in (nn.Linear, nn.Embedding, nn.RMSNorm):
        return module.weight
    if path.endswith(("embed_tokens", "norm")):
        raise RequestError(f"{path}: expected an adapter on matrices only, found {type(module).__name__}")
    return Layered(module)


def _batch(ids: NDArray[np.int32], is_token: NDArray[np.bool_], places: NDArray[np.integer] | None) -> Batch:
    """The tokens of all rows, flat; a new text begins with a row, and at a place 0."""
    begins = np.zeros(ids.shape, bool) if places is None else places == 0
    begins[np.arange(len(ids)), is_token.argmax(axis=1)] = True
    starts = np.append(np.flatnonzero(begins[is_token]), is_token.sum()).astype(np.int32)
    lengths = np.diff(starts)
    positions = np.arange(starts[-1], dtype=np.int32) - np.repeat(starts[:-1], lengths)
    return Batch(tokens=ids[is_token], positions=positions, starts=starts)


def _targets(labels: Tensor, is_token: NDArray[np.bool_], batch: Batch) -> Tensor:
    """[T] int64 the label that each token is followed by, IGNORED at the end of a text."""
    flat = labels.cpu()[torch.from_numpy(is_token)].long()
    targets = torch.full_like(flat, IGNORED)
    targets[:-1] = flat[1:]
    targets[batch.last_rows] = IGNORED
    return targets
