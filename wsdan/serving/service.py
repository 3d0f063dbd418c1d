"""From the bytes of images to predictions: decoding, the network in batches, renderings."""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from PIL import Image
from torch import Tensor

from wsdan.data.images import BadImageError, load_image
from wsdan.data.samples import Encoded
from wsdan.data.zoom import Inputs, joined
from wsdan.errors import printable
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import Prediction
from wsdan.inference.results import Result
from wsdan.serving.batching import Batcher
from wsdan.serving.settings import RefusedError, Settings

MOST_DECODERS = 4  # threads
LONGEST = 2048  # pixels of the longer side of a photograph that is kept for its renderings
T = TypeVar("T")


class Upload(Protocol):
    """An image of a request: its name, and its bytes when they are asked for."""

    name: str | None

    async def content(self) -> bytes: ...


@dataclass(frozen=True)
class Options:
    """What a request asks for: the best `top` classes, the label "unknown" below `threshold`, and
    with `attention` the renderings."""

    top: int = 5
    threshold: float = 0.0
    attention: bool = False


@dataclass(frozen=True, eq=False)
class Job:
    """One image for the network. inputs: a batch of one. size: of the original, width and height.
    photograph: the original, or smaller, where its renderings are asked for."""

    name: str | None
    inputs: Inputs
    size: tuple[int, int]
    options: Options
    photograph: Image.Image | None


@dataclass(frozen=True, eq=False)
class Outcome:
    """result: of a job. attentions: (M,h,w) float32 on the CPU, where its renderings are asked for
    and the model has them."""

    result: Result
    attentions: Tensor | None


class Slots:
    """The queue's places: images that are being received, wait or are in work."""

    def __init__(self, places: int):
        self.places, self.taken = places, 0

    def take(self, count: int) -> None:
        """Raises RefusedError where so many are not free."""
        if self.taken + count > self.places:
            raise RefusedError(429, f"all {self.places} places of the queue are taken", retry=1)
        self.taken += count

    def give(self, count: int) -> None:
        self.taken -= count


class Service:
    """A classifier behind a queue.

    Images are decoded by a pool of threads and pass the network in another one, so that the event
    loop never waits. Of decoded images there are at most two batches and one for each decoder;
    others wait encoded.

    Args:
        draw: the renderings of a job; see rendering.py.
    """

    def __init__(
        self,
        classifier: Classifier,
        settings: Settings,
        draw: Callable[[Classifier, Image.Image, Result, Tensor], dict[str, Any]],
    ):
        self.classifier, self.settings, self._draw = classifier, settings, draw
        decoders = min(MOST_DECODERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._decoded = asyncio.Semaphore(2 * settings.max_batch + decoders)
        self.batcher = Batcher(self._run, settings.max_batch, settings.max_wait)
        self.slots = Slots(settings.queue)
        self.ready = self.draining = False
        self.in_flight = 0  # requests that are being answered
        self.cut_off = 0  # requests that the end of the server left without an answer

    @property
    def has_attention(self) -> bool:
        return self.classifier.config.method != "baseline"

    def warm_up(self) -> None:
        """Run the network once: the first batch is slower than those after it."""
        image = self.classifier.read(Image.new("RGB", (8, 8)))
        self.classifier.predict(*self.classifier.prepared([image]))
        self.ready = True

    async def in_pool(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function in a thread of the pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    async def predict(self, uploads: list[Upload], options: Options) -> list[dict[str, Any]]:
        """For each upload the dict of its Result, or of its name and an "error"."""
        return list(await asyncio.gather(*(self._predict(item, options) for item in uploads)))

    async def stop(self) -> None:
        await self.batcher.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _predict(self, upload: Upload, options: Options) -> dict[str, Any]:
        async with self._decoded:
            content = await upload.content()
            try:
                job = await self.in_pool(self._decode, upload.name, content, options)
            except BadImageError as error:
                return {"image": upload.name, "error": printable(str(error))}
            outcome = await self.batcher.submit(job)
            answer = outcome.result.to_dict()
            if options.attention:
                answer["attention"] = None
            if outcome.attentions is not None:
                drawn = (self.classifier, job.photograph, outcome.result, outcome.attentions)
                answer["attention"] = await self.in_pool(self._draw, *drawn)
            return answer

    def _decode(self, name: str | None, content: bytes, options: Options) -> Job:
        """Raises BadImageError."""
        shown = name or "the image"
        if not content:
            raise BadImageError(f"{shown}: not a readable image: it is empty")
        config = self.classifier.config
        try:
            original = load_image(
                Encoded(shown, content), config.max_pixels, rgba=config.in_channels == 4
            )
        except MemoryError:
            raise BadImageError(f"{shown}: there is not enough memory for its pixels") from None
        inputs, photograph = self.classifier.prepared([original]), None
        if options.attention and self.has_attention:
            photograph = original.convert("RGB")
            photograph.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        return Job(name, inputs, original.size, options, photograph)

    def _run(self, jobs: list[Job]) -> list[Outcome]:
        """In the model's thread: one batch."""
        inputs = joined([job.inputs for job in jobs])
        prediction = _on_cpu(self.classifier.predict(*inputs))
        return [self._outcome(job, _of_one(prediction, i)) for i, job in enumerate(jobs)]

    def _outcome(self, job: Job, prediction: Prediction) -> Outcome:
        (result,) = self.classifier.results(
            prediction, [job.name], [job.size],
            top=job.options.top, threshold=job.options.threshold,
        )  # fmt: skip
        attentions = prediction.attentions
        wanted = job.photograph is not None and attentions is not None
        return Outcome(result, attentions[0].float() if wanted else None)


def _on_cpu(prediction: Prediction) -> Prediction:
    return Prediction(*(None if part is None else part.cpu() for part in prediction))


def _of_one(prediction: Prediction, index: int) -> Prediction:
    """The prediction for one image of a batch, as a batch of one."""
    return Prediction(*(None if part is None else part[index : index + 1] for part in prediction))
