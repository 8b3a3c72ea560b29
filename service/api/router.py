"""The routers that the routes stand in: what holds for every route is said here once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute


class Router(APIRouter):
    """A router whose routes for GET answer to HEAD as well (RFC 9110, 9.3.2): the same answer, of which the server
    sends the head. The description does not name HEAD; it goes without saying."""

    def add_api_route(
        self, path: str, endpoint: Callable[..., Any], *, methods: set[str] | list[str] | None = None, **options: Any
    ) -> None:
        super().add_api_route(path, endpoint, methods=methods, **options)
        if "GET" in (methods or ("GET",)):
            super().add_api_route(path, endpoint, methods=["HEAD"], **{**options, "include_in_schema": False})


def operation_id(route: APIRoute) -> str:
    """What the description calls a route, and its links lead to: `models_fetch`, the resource and the function."""
    return "_".join([*map(str, route.tags), route.name])
