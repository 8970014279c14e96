"""transformers over Octuor's kernels and formats: a program changes one import and runs as it is.

from octuor.integrations.transformers import AutoModelForCausalLM, AutoTokenizer

Everything that transformers builds on a causal model works: generate, pipelines, chat templates, streamers, logits
processors, beams. Needs transformers 5 and PyTorch, which holds token ids and logits only.
"""

from octuor.integrations.transformers.cache import SequencesCache
from octuor.integrations.transformers.model import AutoModelForCausalLM, MistralForCausalLM, MixtralForCausalLM
from octuor.integrations.transformers.tokenizer import AutoTokenizer
from octuor.integrations.transformers.training import MixtralForTraining

__all__ = [
    "AutoModelForCausalLM",
    "AutoTokenizer",
    "MistralForCausalLM",
    "MixtralForCausalLM",
    "MixtralForTraining",
    "SequencesCache",
]
