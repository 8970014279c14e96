"""GET /v1/models and /v1/models/{id}: what there is to ask."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.responses import Response

from octuor.server.json_text import dumps
from octuor.server.registry import EMBED_NAME, Registry, Served
from octuor.server.route import keyed_router
from octuor.server.schemas.models import ModelCard, ModelList, Permission
from octuor.server.serving import Serving, serving_of

router = keyed_router("models")


@router.get("/v1/models", response_model=ModelList)
async def list_models(serving: Annotated[Serving, Depends(serving_of)]) -> Response:
    """All models, by their own names and by those that Mistral's platform gave them."""
    registry = serving.models()
    cards = [model_card(registry, name, served) for name, served in registry.listed()]
    return Response(dumps(ModelList(object="list", data=cards)), media_type="application/json")


@router.get("/v1/models/{model_id:path}", response_model=ModelCard)
async def get_model(model_id: str, serving: Annotated[Serving, Depends(serving_of)]) -> Response:
    """One model, by any of its names."""
    served = serving.find(model_id)
    card = model_card(serving.models(), model_id, served)
    return Response(dumps(card), media_type="application/json")


def model_card(registry: Registry, name: str, served: Served) -> ModelCard:
    """A model under one of its names, with every key that some client needs."""
    is_chat, adapter = name != EMBED_NAME, registry.adapter(name)
    permission: Permission = {
        "id": f"modelperm-{name}",
        "object": "model_permission",
        "created": served.created,
        "allow_create_engine": False,
        "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False,
        "allow_view": True,
        "allow_fine_tuning": False,
        "organization": "*",
        "group": None,
        "is_blocking": False,
    }
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "mistralai",
        "root": served.name,
        "parent": None if adapter is None else served.name,
        "type": "base" if adapter is None else "fine-tuned",
        "name": served.name,
        "description": f"{served.model.checkpoint.source.name}, served by Octuor",
        "max_context_length": served.n_context,
        "max_model_len": served.n_context,
        "aliases": [] if adapter else [alias for alias in (served.name, *registry.aliases(served)) if alias != name],
        "deprecation": None,
        "default_model_temperature": served.temperature,
        "capabilities": {
            "completion_chat": is_chat,
            "completion_fim": False,
            "function_calling": is_chat,
            "fine_tuning": False,
            "vision": False,
            "classification": False,
        },
        "permission": [permission],
    }
