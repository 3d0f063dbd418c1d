"""Answers in JSON, of ASCII: names may hold what UTF-8 does not have."""

import json
from typing import Any

from starlette.responses import Response

from wsdan.serving.settings import RefusedError

KIND = "application/json"


def as_json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content, allow_nan=False).encode("ascii")
    return Response(body, status, headers, media_type=KIND)


def refusal(refused: RefusedError) -> Response:
    """{"error": message}, with Retry-After where it is known."""
    headers = {} if refused.retry is None else {"Retry-After": str(refused.retry)}
    return as_json({"error": refused.message}, refused.status, headers)
