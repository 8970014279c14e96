"""Write the samples of torch.save beside this file: python tests/checkpoint/samples/write_torch.py (PyTorch 2.13.0)."""

from collections import OrderedDict
from pathlib import Path

import torch

HERE = Path(__file__).parent


def state() -> "OrderedDict[str, object]":
    """Everything that a state dict of weights may hold: dtypes, parameters, views, shared storages, other entries."""
    rows = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    found: OrderedDict[str, object] = OrderedDict(
        f32=rows,
        shared=rows,
        tail=rows[2:],
        columns=rows[:, 1:3],
        transposed=rows.T,
        parameter=torch.nn.Parameter(torch.tensor([1.5, -2.0])),
        bf16=torch.tensor([1.0, -2.0, 0.15625]).bfloat16(),
        f16=torch.tensor([[0.5], [65504.0]]).half(),
        f64=torch.tensor([1e300], dtype=torch.float64),
        f8=torch.tensor([1.0, -448.0]).to(torch.float8_e4m3fn),
        i64=torch.tensor([-(2**62)]),
        i32=torch.tensor([7], dtype=torch.int32),
        i8=torch.tensor([-128, 127], dtype=torch.int8),
        u8=torch.tensor([0, 255], dtype=torch.uint8),
        bool=torch.tensor([True, False]),
        scalar=torch.tensor(3.0),
        empty=torch.zeros(0, 5),
        step=1000,
    )
    found._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]  # as Module.state_dict leaves it
    return found


if __name__ == "__main__":
    torch.save(state(), HERE / "torch_2_13.pt")
    torch.save(state(), HERE / "torch_2_13_legacy.pt", _use_new_zipfile_serialization=False)
