"""The images and the options of a request to /predict, from its multipart form or its JSON."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from wsdan.errors import printable, shown
from wsdan.serving.service import Options, Service, Upload
from wsdan.serving.settings import MOST_TOP, RefusedError

MOST_FIELDS = 16  # parts of a form that are no files
LONGEST_FIELD = 1000  # bytes
DATA_URI = re.compile(r"data:[\w.+/-]*(;[\w=.+-]+)*;base64,", re.ASCII)


@dataclass(frozen=True)
class FileUpload:
    """A file of a form; large ones are on the disk until they are asked for."""

    file: UploadFile

    @property
    def name(self) -> str | None:
        return printable(self.file.filename) if self.file.filename else None

    async def content(self) -> bytes:
        return await self.file.read()


@dataclass(frozen=True)
class BytesUpload:
    """An image of JSON, which has no name."""

    held: bytes
    name: str | None = None

    async def content(self) -> bytes:
        return self.held


async def parse(request: Request, service: Service) -> tuple[list[Upload], Options]:
    """The images, at least one, and the options, of which those of the body win over the query's.

    Raises RefusedError.
    """
    given: dict[str, Any] = dict(request.query_params)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise RefusedError(415, "the body must be sent without a Content-Encoding")
    most = service.settings.most_files
    if kind == "multipart/form-data":
        uploads = await _form(request, given, most)
    elif kind == "application/json":
        uploads = await service.in_pool(_json, await request.body(), given, most)
    else:
        raise RefusedError(
            415,
            f"Content-Type must be multipart/form-data or application/json; got {shown(kind)}",
        )
    return uploads, _options(given)


async def _form(request: Request, given: dict[str, Any], most: int) -> list[Upload]:
    try:
        form = await request.form(
            max_files=most, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD
        )
    except HTTPException as error:  # of Starlette's parser
        raise RefusedError(400, f"the form is broken: {printable(str(error.detail))}") from None
    uploads: list[Upload] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            uploads.append(FileUpload(value))
        else:
            given[name] = value
    if not any(upload.file.size for upload in uploads):
        raise RefusedError(400, "the form has no file: send the image as the part `file`")
    return uploads


def _json(body: bytes, given: dict[str, Any], most: int) -> list[Upload]:
    """The images of {"image": BASE64} or {"images": [BASE64, ...]}; other keys go to `given`."""
    if not body:
        raise RefusedError(400, "the body is empty: send a JSON object with `image`, base64")
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = (
            f"{error.msg} at character {error.pos}" if hasattr(error, "pos") else "not UTF-8 JSON"
        )
        raise RefusedError(400, f"the body is no JSON: {reason}") from None
    if not isinstance(content, dict):
        raise RefusedError(400, f"the JSON must be an object, but got {shown(content)}")
    if ("image" in content) == ("images" in content):
        raise RefusedError(400, "the JSON must have `image`, base64, or `images`, a list")
    images = [content.pop("image")] if "image" in content else content.pop("images")
    if not isinstance(images, list) or not images:
        raise RefusedError(400, f"images must be a list of base64 texts, but got {shown(images)}")
    if len(images) > most:
        raise RefusedError(413, f"a request has at most {most} images, but got {len(images)}")
    given.update(content)
    return [BytesUpload(_decoded(image)) for image in images]


def _decoded(text: object) -> bytes:
    """The bytes of base64, also in lines and as a data URI."""
    if not isinstance(text, str):
        raise RefusedError(400, f"an image must be base64 text, but got {shown(text)}")
    if header := DATA_URI.match(text[:200]):
        text = text[header.end() :]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(400, f"an image is no base64: {error}") from None


def _options(given: dict[str, Any]) -> Options:
    unknown = sorted(given.keys() - READERS.keys())
    if unknown:
        raise RefusedError(
            400, f"there is no option {shown(unknown[0])}; there are {', '.join(READERS)}"
        )
    return Options(**{name: READERS[name](value) for name, value in given.items()})


def _top(value: object) -> int:
    number = _number(value, int)
    if number is None or not 1 <= number <= MOST_TOP:
        raise RefusedError(400, f"top must be an integer in [1, {MOST_TOP}]; got {shown(value)}")
    return number


def _threshold(value: object) -> float:
    number = _number(value, float)
    if number is None or not 0 <= number <= 1:  # NaN too
        raise RefusedError(400, f"threshold must be a number in [0, 1]; got {shown(value)}")
    return float(number)


def _number(value: object, kind: type) -> Any:
    """A number of JSON, or the text of one in a form or a query; else None."""
    if isinstance(value, str):
        try:
            return kind(value) if len(value) < 40 else None
        except ValueError:
            return None
    allowed = (int,) if kind is int else (int, float)
    return value if isinstance(value, allowed) and not isinstance(value, bool) else None


def _flag(value: object) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    flag = value if isinstance(value, bool) else known.get(str(value).lower())
    if flag is None:
        raise RefusedError(400, f"attention must be true or false; got {shown(value)}")
    return flag


READERS: dict[str, Callable[[object], Any]] = {
    "top": _top,
    "threshold": _threshold,
    "attention": _flag,
}
