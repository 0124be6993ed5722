"""Applications of verifiers that do not make their routes anew for each test.

To make the routes costs more than to start the verifier they belong to, and a worker starts hundreds. Routes read what they
need of their `Parts` when they are asked, so those of a verifier that is closed serve the next one: its parts are put into
the object that they hold. Limits, error handlers and counters are made for each.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final

from fastapi import FastAPI

from verifier.http.app import build
from verifier.http.route import Parts

_IDLE: Final[list[FastAPI]] = []
"""Applications of verifiers that are closed; in `state.parts` what their routes hold."""


def application(parts: Parts) -> FastAPI:
    """The application over these parts, for `compose.verifier`."""
    if not _IDLE:
        app, held = build(parts), parts
    else:
        before = _IDLE.pop()
        held = before.state.parts
        for field in fields(Parts):
            object.__setattr__(held, field.name, getattr(parts, field.name))
        app = build(held, like=before)
    app.state.parts = held
    return app


def closed(app: FastAPI) -> None:
    """Nobody is served by it any more: the next application may have its routes."""
    _IDLE.append(app)
