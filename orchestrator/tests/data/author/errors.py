"""What can go wrong, and how clients hear of it."""

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse


class Conflict(Exception):
    """The request contradicts what is stored."""


def install(app: FastAPI) -> None:
    """Answer our own errors with their status."""

    @app.exception_handler(Conflict)
    async def conflict(request: Request, error: Conflict) -> JSONResponse:
        return JSONResponse(status_code=409, content={"detail": str(error), "path": request.url.path})
