"""`/`: one page for people, whose files are in `page/`. Everything on it comes from the API, so it shows what the
reader's key may see."""

from __future__ import annotations

from pathlib import Path

from fastapi import Request, Response

from rightrank.service.api.router import Router
from rightrank.service.api.static import Folder

router = Router(include_in_schema=False)
PAGE = Folder(Path(__file__).parent / "page", "/page")


@router.get("/")
async def home(request: Request) -> Response:
    """The page."""
    return PAGE.page(request)


@router.get("/page/{tag}/{name:path}")
async def file(tag: str, name: str, request: Request) -> Response:
    """What it is made of."""
    return PAGE.file(request, tag, name)
