"""`wsdan serve` in this process, and images to send it."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from wsdan.checkpoint import save_checkpoint
from wsdan.config import Config
from wsdan.inference.classifier import Classifier
from wsdan.networks.model import build_model
from wsdan.serving.app import build_app
from wsdan.serving.rendering import draw
from wsdan.serving.service import Service
from wsdan.serving.settings import Settings

CLASSES = ["jay", "magpie", "rook <b>&"]


def checkpoint(folder: Path, **options) -> Path:
    """A tiny model with random weights."""
    torch.manual_seed(0)
    config = Config(
        "folder", ".", image_size=32, backbone="tiny", num_attentions=4, **options
    ).resolved()
    model = build_model(config, len(CLASSES))
    path = folder / "best.pt"
    save_checkpoint(path, config, CLASSES, {"model": model.state_dict()})
    return path


def service_of(classifier: Classifier, **settings) -> Service:
    service = Service(classifier, Settings(**settings), draw)
    service.ready = True
    return service


def photograph(
    size: tuple[int, int] = (60, 40), kind: str = "JPEG", seed: int = 0, **options
) -> bytes:
    pixels = np.random.default_rng(seed).integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@contextlib.asynccontextmanager
async def client(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service's application, whose batches run within."""
    app = build_app(service)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as found,
    ):
        yield found


def served(service: Service, ask: Callable[[httpx.AsyncClient], Awaitable]):
    """What `ask` returns, called with a client."""

    async def asking():
        async with client(service) as found:
            return await asyncio.wait_for(ask(found), 20)

    return asyncio.run(asking())


def posted(service: Service, path: str = "/predict", **request) -> httpx.Response:
    """The answer to one POST."""

    async def post(found: httpx.AsyncClient) -> httpx.Response:
        return await found.post(path, **request)

    return served(service, post)
