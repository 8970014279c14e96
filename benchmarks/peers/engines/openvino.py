"""OpenVINO with int4 weights: a random-weight Mixtral from transformers, exported by optimum-intel, run by the runtime.

openvino-genai reads dense llama GGUFs but not Mixtral's merged experts, so the model is exported: 3 GB of memory a
layer and minutes. The child runs the compiled model itself, as openvino-genai would, with random tokens.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import (
    EngineError,
    PackagedEngine,
    Request,
    Row,
    Subject,
    answer,
    parse_rows,
    read_inside,
)
from engines.transformers import random_model

PROMPT_BEFORE = 16
GROUP = 64  # weights that share an fp16 scale: 4.25 bits a weight
PACKAGES = ["openvino-genai", "optimum-intel[openvino]", "nncf", "torch"]


@dataclass
class OpenVino(PackagedEngine):
    """See the module."""

    name: str = "openvino"

    def install(self) -> None:
        self.environment.install(PACKAGES, "openvino, optimum.intel")

    def prepare(self, subject: Subject) -> int:
        if subject.format_name != "q4":
            raise EngineError(f"{self.name}: expected --format q4, found {subject.format_name}")
        self._subject = subject
        if not self._folder.exists():
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self.environment.run_module("engines.openvino", "export", str(subject.layers), str(self._folder))
        return sum(file.stat().st_size for file in self._folder.iterdir())

    @property
    def _folder(self) -> Path:
        assert self._subject is not None
        return (self._subject.work / "models" / f"8x7b-{self._subject.layers}l-openvino-int4").resolve()

    def describe(self) -> str:
        return f"openvino {self.environment.version('openvino')}, int4 weights in groups of {GROUP}, defaults"

    def measure(self, request: Request) -> list[Row]:
        return parse_rows(self.run(request, self._folder))


def export(n_layers: int, folder: Path) -> None:
    """Write the model as OpenVINO's IR, under a partial name first; in the child."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    source, partial = folder.with_name(folder.name + ".hf"), folder.with_name(folder.name + ".partial")
    if not source.exists():
        random_model(n_layers).save_pretrained(source)
    bits = OVWeightQuantizationConfig(bits=4, sym=True, group_size=GROUP)
    OVModelForCausalLM.from_pretrained(source, export=True, quantization_config=bits).save_pretrained(partial)
    partial.replace(folder)


def _keep_last_logits(model: Any) -> None:
    """Give the output matrix the last token alone, as openvino-genai does with a model that it opens."""
    import numpy as np
    from openvino import opset13

    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() != "MatMul":
        node = node.input_value(0).get_node()
    last = opset13.slice(node.input_value(0), *(np.array([n]) for n in (-1, np.iinfo(np.int64).max, 1, 1)))
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


def measure(folder: Path, threads: int, request: Request) -> list[Row]:
    """The rows of a request, each after a warm-up; in the child."""
    import numpy as np
    import openvino

    core = openvino.Core()
    config = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    model = core.read_model(folder / "openvino_model.xml")
    _keep_last_logits(model)
    infer = core.compile_model(model, "CPU", config).create_infer_request()
    names = {name for port in infer.get_compiled_model().inputs for name in port.get_names()}
    rng = np.random.default_rng(0)

    def step(n_tokens: int, n_streams: int, before: int) -> None:
        shape = (n_streams, n_tokens)
        inputs: dict[str, Any] = {
            "input_ids": rng.integers(3, 32000, shape),
            "attention_mask": np.ones((n_streams, before + n_tokens), np.int64),
            "position_ids": np.broadcast_to(np.arange(before, before + n_tokens), shape),
            "beam_idx": np.arange(n_streams, dtype=np.int32),
        }
        infer.infer({name: array for name, array in inputs.items() if name in names})

    rows = []
    for n in request.prompts:
        infer.reset_state()
        step(PROMPT_BEFORE, 1, 0)
        infer.reset_state()
        began = time.perf_counter()
        step(n, 1, 0)
        rows.append(Row("prompt", n, 1, n / (time.perf_counter() - began)))
    for n in request.batches:
        infer.reset_state()
        step(PROMPT_BEFORE, n, 0)
        began = time.perf_counter()
        for i in range(request.answer):
            step(1, n, PROMPT_BEFORE + i)
        rows.append(Row("answer", request.answer, n, n * request.answer / (time.perf_counter() - began)))
    return rows


def main() -> None:
    if sys.argv[1] == "export":
        export(int(sys.argv[2]), Path(sys.argv[3]))
        return
    given, request = read_inside()
    answer(measure(Path(given["model"]), given["threads"], request))


if __name__ == "__main__":
    main()
