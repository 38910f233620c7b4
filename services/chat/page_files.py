"""The page: static files, read once, served with the tag that browsers revalidate by."""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

PAGE = Path(__file__).resolve().parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class PageFile:
    """One file of the page, in memory."""

    def __init__(self, path: Path) -> None:
        self._content = path.read_bytes()
        self._type = f"{TYPES[path.suffix]}; charset=utf-8"
        self._tag = f'"{hashlib.sha256(self._content).hexdigest()[:16]}"'

    async def serve(self, request: Request) -> Response:
        """The file, or 304 when the browser has it."""
        headers = {"ETag": self._tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == self._tag:
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._type)


def page_router() -> APIRouter:
    """`/` and the files it names. Only what lies in the folder now has a route, so no path can leave it."""
    router = APIRouter(include_in_schema=False)
    for path in sorted(PAGE.iterdir()):
        if path.suffix in TYPES:
            route = "/" if path.name == "index.html" else f"/page/{path.name}"
            router.add_api_route(route, PageFile(path).serve, methods=["GET", "HEAD"], response_class=Response)
    return router
