"""The routes, a module a dialect or endpoint; a new one is a module with a `router` and an entry here."""

from __future__ import annotations

from fastapi import APIRouter

from octuor.server.routes import adapters, chat, completions, embeddings, health, metrics, models, tgi, tokenize

ROUTERS: tuple[APIRouter, ...] = (
    models.router, chat.router, completions.router, embeddings.router, tgi.router, tokenize.router, health.router,
    metrics.router, adapters.router,
)  # fmt: skip
