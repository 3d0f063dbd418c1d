"""The web application: the page, the API, the state."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException

from wsdan.errors import printable
from wsdan.serving.answers import as_json, refusal
from wsdan.serving.gate import Gate
from wsdan.serving.parsing import parse
from wsdan.serving.schema import PREDICT
from wsdan.serving.service import Service
from wsdan.serving.settings import RefusedError

PAGE = Path(__file__).parent / "page"
FILES = {  # path -> file of the page
    "/": "index.html",
    "/docs": "docs.html",
    "/style.css": "style.css",
    "/page.js": "page.js",
    "/docs.js": "docs.js",
    "/icon.svg": "icon.svg",
}


def build_app(service: Service) -> FastAPI:
    """The ASGI application of a service, whose batches it starts and stops.

    All errors are JSON {"error": one line}. FastAPI's own documentation loads scripts from
    elsewhere, so it is left out: /docs is a page of ours.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await service.stop()

    app = FastAPI(
        title="wsdan serve",
        description="A WS-DAN classifier: images in, classes and attention out.",
        version="1",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(Gate, service=service)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _failed)

    @app.post("/predict", summary="Classify images", openapi_extra=PREDICT, response_class=Response)
    async def predict(request: Request) -> Response:
        return await _predict(request, service)

    @app.get("/healthz", summary="Whether the server is ready, and what it serves")
    async def healthz() -> Response:
        ready = service.ready and not service.draining
        return as_json(state(service), 200 if ready else 503)

    for path, name in FILES.items():
        _add_file(app, path, name)
    return app


def state(service: Service) -> dict[str, Any]:
    """What /healthz answers."""
    classifier, settings = service.classifier, service.settings
    height, width = _sides(classifier.config.input_size)
    return {
        "ready": service.ready and not service.draining,
        "model": {
            "backbone": classifier.config.backbone,
            "classes": len(classifier.classes),
            "input": [width, height],
            "attention": service.has_attention,
        },
        "device": str(classifier.device),
        "queue": {"images": service.slots.taken, "places": service.slots.places},
        "limits": {
            "bytes": settings.max_upload,
            "pixels": classifier.config.max_pixels,
            "files": settings.most_files,
            "seconds": settings.timeout,
        },
    }


async def _predict(request: Request, service: Service) -> Response:
    """Raises RefusedError."""
    taken = 1
    service.slots.take(taken)
    try:
        uploads, options = await parse(request, service)
        service.slots.take(len(uploads) - 1)
        taken = len(uploads)
        left = request.scope["deadline"] - asyncio.get_running_loop().time()
        results = await asyncio.wait_for(service.predict(uploads, options), max(left, 0))
    except asyncio.TimeoutError:
        seconds = service.settings.timeout
        raise RefusedError(504, f"the answer took longer than {seconds:g} s", retry=5) from None
    finally:
        service.slots.give(taken)
    errors = [result["error"] for result in results if "error" in result]
    if len(errors) == len(results):
        several = f"none of {len(errors)} images can be read; the first: "
        raise RefusedError(422, (several if len(errors) > 1 else "") + errors[0])
    return await service.in_pool(as_json, {"results": results})


def _add_file(app: FastAPI, path: str, name: str) -> None:
    async def file() -> Response:
        return FileResponse(PAGE / name)

    app.add_api_route(path, file, methods=["GET"], include_in_schema=False)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return size if isinstance(size, tuple) else (size, size)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return refusal(error)


async def _http_error(_: Request, error: Exception) -> Response:
    """Of FastAPI and Starlette: no such path, another method."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    return as_json({"error": printable(str(error.detail))}, error.status_code, headers)


async def _failed(_: Request, error: Exception) -> Response:
    """A fault of the server: its log has the traceback, the client has none."""
    return as_json({"error": f"the server failed ({type(error).__name__}); its log says why"}, 500)
