"""POST /v1/load_lora_adapter and /v1/unload_lora_adapter, as vLLM has them: adapters come and go beside answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import Depends
from starlette.responses import PlainTextResponse, Response

from octuor.errors import CheckpointError, ConfigError
from octuor.server.answering import Caller, caller_of
from octuor.server.errors import ApiError, invalid
from octuor.server.route import keyed_router
from octuor.server.schemas.adapters import LoadAdapter, UnloadAdapter

router = keyed_router("adapters")


@router.post("/v1/load_lora_adapter", response_class=PlainTextResponse)
async def load_adapter(body: LoadAdapter, caller: Annotated[Caller, Depends(caller_of)]) -> Response:
    """Load an adapter from the folder that the server's settings name."""
    folder, served = _folder(caller), caller.find(body.model)
    path = (folder / body.lora_path).resolve()
    if not path.is_relative_to(folder):
        found = f"lora_path: expected a folder within the server's adapter_folder, found {body.lora_path!r}"
        raise invalid(found, "lora_path")
    try:
        await asyncio.to_thread(served.model.adapters.load, path, body.lora_name)
    except (CheckpointError, ConfigError) as error:
        raise invalid(f"lora_path: {error}", "lora_path") from error
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/v1/unload_lora_adapter", response_class=PlainTextResponse)
async def unload_adapter(body: UnloadAdapter, caller: Annotated[Caller, Depends(caller_of)]) -> Response:
    """Forget an adapter; answers that run with it end with it."""
    _folder(caller)
    caller.find(body.model).model.adapters.unload(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")


def _folder(caller: Caller) -> Path:
    """Where adapters may come from. Raises ApiError 403 where the settings name no such place."""
    folder = caller.serving.settings.adapter_folder
    if folder is None:
        raise ApiError(
            403,
            "adapters are not loaded while this server runs; its settings may name an adapter_folder",
            code="adapters_fixed",
        )
    return Path(folder).resolve()
