"""What is wrong with a request is a 4xx with one line, whatever it is."""

import base64
import json
import struct
import zlib

import pytest
from served import photograph, posted, service_of

from wsdan.data.images import BadImageError

PHOTO = photograph()
BASE64 = base64.b64encode(PHOTO).decode()


def form(**fields: str) -> dict:
    return {"files": {"file": PHOTO}, "data": fields}


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few bytes whose header says side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


AS_FORM = {"Content-Type": "multipart/form-data; boundary=x"}
AS_JSON = {"Content-Type": "application/json"}
PART = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
BAD = {  # name -> (the request, status, what the error says)
    "not an image": ({"files": {"file": ("a.txt", b"words")}}, 422, "a.txt: not a readable image"),
    "a truncated image": ({"files": {"file": PHOTO[:300]}}, 422, "not a readable image"),
    "a bomb": ({"files": {"file": ("b.png", bomb())}}, 422, "--max-pixels"),
    "a smaller bomb": ({"files": {"file": bomb(15_000)}}, 422, "--max-pixels"),
    "an empty file": ({"files": {"file": ("a.jpg", b"")}}, 400, "no file"),
    "no body": ({}, 415, "Content-Type must be"),
    "a bare image": ({"content": b"x", "headers": {"Content-Type": "image/png"}}, 415, "image/png"),
    "a compressed body": (
        {"json": {}, "headers": {"Content-Encoding": "gzip"}}, 415, "Content-Encoding",
    ),
    "a form without a file": ({"files": {"top": (None, "3")}}, 400, "no file"),
    "no boundary": (
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary",
    ),
    "a truncated form": (
        {"content": PART + PHOTO[:100], "headers": AS_FORM}, 400, "",
    ),
    "no form at all": ({"content": PHOTO, "headers": AS_FORM}, 400, "form"),
    "an empty form": ({"content": b"", "headers": AS_FORM}, 400, ""),
    "an unknown option": (form(tpo="1"), 400, "'tpo'; there are"),
    "top 0": (form(top="0"), 400, "top must be"),
    "top nan": (form(top="nan"), 400, "top must be"),
    "top of JSON": ({"json": {"image": BASE64, "top": True}}, 400, "top must be"),
    "top of 9s": (form(top="9" * 900), 400, "top must be"),
    "threshold": ({"json": {"image": BASE64, "threshold": "nan"}}, 400, "threshold must be"),
    "threshold 2": ({"json": {"image": BASE64, "threshold": 2}}, 400, "threshold must be"),
    "attention": ({"json": {"image": BASE64, "attention": "maybe"}}, 400, "attention must be"),
    "a long field": (form(top="1" * 5000), 400, "broken"),
    "not JSON": ({"content": b"{", "headers": AS_JSON}, 400, "no JSON"),
    "not UTF-8": (
        {"content": b"\xff\xfe\xfa", "headers": AS_JSON}, 400, "no JSON",
    ),
    "deep JSON": (
        {"content": b"[" * 100_000, "headers": AS_JSON}, 400, "no JSON",
    ),
    "9s of JSON": (
        {"content": b'{"image": "", "top": ' + b"9" * 9000 + b"}",
         "headers": AS_JSON}, 400, "no JSON",
    ),
    "an empty body": ({"content": b"", "headers": AS_JSON}, 400, "empty"),
    "a list": ({"json": [1]}, 400, "must be an object"),
    "no image": ({"json": {"top": 1}}, 400, "must have `image`"),
    "image and images": ({"json": {"image": BASE64, "images": [BASE64]}}, 400, "must have `image`"),
    "no images": ({"json": {"images": []}}, 400, "images must be a list"),
    "a number": ({"json": {"image": 3}}, 400, "base64 text"),
    "not base64": ({"json": {"image": "!" + BASE64}}, 400, "no base64"),
    "half of base64": ({"json": {"image": BASE64[:101]}}, 400, "no base64"),
    "not ASCII": (
        {"content": b'{"image": "\\ud800\\u00e9"}', "headers": AS_JSON}, 400, "no base64",
    ),
    "empty base64": ({"json": {"image": ""}}, 422, "is empty"),
    "too many images": ({"json": {"images": [""] * 33}}, 413, "at most 32"),
    "too many files": ({"files": [("file", ("a", b"x"))] * 33}, 400, "Too many files"),
    "too large": ({"files": {"file": b"x" * 200_000}}, 413, "at most 0.125 MB"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_a_4xx_with_one_line(classifier, name):
    request, status, text = BAD[name]
    answer = posted(service_of(classifier, max_upload=2**17), **request)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.json().keys() == {"error"}
    error = answer.json()["error"]
    assert text in error and "\n" not in error and len(error) < 400 and error.isprintable()


def test_a_wrong_option_is_told_though_the_query_has_it(classifier):
    answer = posted(service_of(classifier), "/predict?top=x", files={"file": PHOTO})
    assert (answer.status_code, answer.json()["error"]) == (
        400, "top must be an integer in [1, 1000]; got 'x'",
    )  # fmt: skip


@pytest.mark.parametrize("name", ["\ud800.jpg", "a\nb.jpg", "é.jpg", "x" * 3000, '"><script>'])
def test_any_name_of_a_file_is_answered(classifier, name):
    quoted = json.dumps(name)[1:-1].encode("utf-8", "surrogatepass")
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="' + quoted + b'"\r\n\r\n'
    for content, status in ((PHOTO, 200), (b"words", 422)):
        body = head + content + b"\r\n--x--\r\n"
        answer = posted(service_of(classifier), content=body, headers=AS_FORM)
        assert answer.status_code == status
        assert answer.json()


def test_memory_that_is_not_there_is_the_images_fault(classifier, monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("wsdan.serving.service.load_image", fail)
    answer = posted(service_of(classifier), files={"file": ("a.jpg", PHOTO)})
    assert answer.status_code == 422
    assert "a.jpg: there is not enough memory" in answer.json()["error"]


def test_a_decoder_that_fails_in_any_way_is_422(classifier, monkeypatch):
    def fail(*_, **__):
        raise BadImageError("a.jpg: not a readable image: \x1b[31m\n")

    monkeypatch.setattr("wsdan.serving.service.load_image", fail)
    answer = posted(service_of(classifier), files={"file": PHOTO})
    assert answer.json() == {"error": "a.jpg: not a readable image: \\x1b[31m\\n"}
