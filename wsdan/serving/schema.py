"""The description of POST /predict in openapi.json."""

from typing import Any

OPTIONS: dict[str, dict[str, Any]] = {
    "top": {
        "type": "integer", "minimum": 1, "default": 5,
        "description": "Classes of the answer, the best first.",
    },
    "threshold": {
        "type": "number", "minimum": 0, "maximum": 1, "default": 0,
        "description": "The label is unknown where the best score is below it.",
    },
    "attention": {
        "type": "boolean", "default": False,
        "description": "Add the attention map, the parts and the zoomed view as images.",
    },
}  # fmt: skip
BASE64 = {"type": "string", "description": "A file in base64, or a data URI of one."}
_CLASS = {
    "type": "object",
    "required": ["class", "raw"],
    "properties": {
        "class": {"type": "string"},
        **{
            view: {"type": ["number", "null"], "description": f"Probability in the {text}."}
            for view, text in {
                "raw": "whole image", "refined": "zoomed view", "mean": "mean of both",
                "tta": "mean of the test-time views",
            }.items()
        },
    },
}  # fmt: skip
_BOX = {"type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4}
_PICTURE = {"type": "string", "description": "A JPEG as a data URI."}
_PART = {
    "type": "object",
    "properties": {
        "number": {"type": "integer", "description": "From 1, the strongest first."},
        "map": {"type": "integer", "description": "Index of the attention map."},
        "share": {"type": "number", "description": "Of the mass of all attention maps."},
        "peak": {
            "type": "array", "items": {"type": "number"},
            "description": "x, y in pixels of the original image.",
        },
        "outline": {
            "type": "array",
            "items": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            "description": "Lines of points x, y in pixels of the original image, around where the "
            "map reaches half of its peak.",
        },
    },
}  # fmt: skip
_ATTENTION = {
    "type": ["object", "null"],
    "description": "Only where it was asked for; null for a plain classifier.",
    "properties": {
        "photograph": _PICTURE,
        "overlay": _PICTURE,
        "zoom": _PICTURE,
        "parts": {"type": "array", "items": _PART},
    },
}
_RESULT = {
    "type": "object",
    "properties": {
        "image": {"type": ["string", "null"], "description": "The file's name."},
        "size": {"type": "array", "items": {"type": "integer"}, "description": "Width, height."},
        "label": {"type": "string"},
        "score": {"type": ["number", "null"]},
        "top": {"type": "array", "items": _CLASS},
        "box": {
            **_BOX,
            "type": ["array", "null"],
            "description": "x1 y1 x2 y2 of the zoom.",
        },
        "attention": _ATTENTION,
        "error": {
            "type": "string",
            "description": "Instead of all but image, of an unreadable one among several.",
        },
    },
}
_ANSWER = {
    "type": "object",
    "required": ["results"],
    "properties": {"results": {"type": "array", "items": _RESULT}},
}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "What is wrong, in one line."}},
}
STATUSES = {
    400: "An option, the form, the JSON or the base64 is wrong, or there is no image.",
    403: "Another Host, or a web page elsewhere.",
    408: "The upload took too long.",
    413: "The upload is too large, or has too many images.",
    415: "Another Content-Type or a Content-Encoding.",
    422: "No image of the request can be read.",
    429: "The queue is full; see Retry-After.",
    503: "The server is stopping; see Retry-After.",
    504: "The answer took too long.",
}


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _body(images: dict[str, Any], required: list[str]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {**images, **OPTIONS}}
    return {"schema": {**schema, "required": required} if required else schema}


PREDICT: dict[str, Any] = {
    "parameters": [
        {
            "name": name, "in": "query", "required": False, "schema": option,
            "description": option["description"],
        }
        for name, option in OPTIONS.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": _body(
                {"file": {"type": "string", "format": "binary", "description": "May be repeated."}},
                ["file"],
            ),
            "application/json": _body(
                {"image": BASE64, "images": {"type": "array", "items": BASE64}}, []
            ),
        },
    },
    "responses": {
        "200": {"description": "A result for each image, in order.", "content": _content(_ANSWER)},
        **{
            str(status): {"description": text, "content": _content(_ERROR)}
            for status, text in STATUSES.items()
        },
    },
}  # fmt: skip
