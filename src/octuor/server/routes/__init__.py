"""The routes, a module a dialect or endpoint; a new one is a module with a `router` and an entry here."""

from __future__ import annotations

from fastapi import APIRouter

from octuor.server.routes import chat, models

ROUTERS: tuple[APIRouter, ...] = (models.router, chat.router)
