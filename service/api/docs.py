"""`/docs`: the API's description, to read and to try, shown by Swagger UI, which is kept in `swagger/`: it works where
there is no internet."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request, Response

from rightrank.service.api.router import Router
from rightrank.service.api.static import Folder

router = Router(include_in_schema=False)
SWAGGER = Folder(Path(__file__).parent / "swagger", "/docs")


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The page."""
    return SWAGGER.page(request)


@router.get("/docs/{tag}/{name:path}")
async def file(tag: str, name: str, request: Request) -> Response:
    """What it is made of."""
    return SWAGGER.file(request, tag, name)
