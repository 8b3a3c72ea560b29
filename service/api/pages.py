"""`/`: one page for people. Everything on it comes from the API, so it shows what the reader's key may see."""

from __future__ import annotations

from pathlib import Path

from fastapi.responses import HTMLResponse

from rightrank.service.api.router import Router

router = Router(include_in_schema=False)

PAGE = (Path(__file__).parent / "page.html").read_text()
# The page runs its own script, talks to its own origin, and may not be framed.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@router.get("/", response_class=HTMLResponse)
def home() -> HTMLResponse:
    """The models, and each one's curve."""
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})
