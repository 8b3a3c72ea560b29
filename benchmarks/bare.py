"""The least that a 304 costs in this framework: one route without a body, under uvicorn as the service runs it.

python -m benchmarks.bare PORT
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def unchanged(request: Request) -> Response:
    return Response(status_code=304, headers={"ETag": request.headers.get("if-none-match", '"none"')})


if __name__ == "__main__":
    uvicorn.run(
        Starlette(routes=[Route("/{path:path}", unchanged)]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        log_level="warning",
        server_header=False,
    )
