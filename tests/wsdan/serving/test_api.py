"""POST /predict: the same as the Classifier says, and one clear line for what is wrong."""

import asyncio
import base64
import io

import pytest
from PIL import Image
from served import CLASSES, photograph, posted, served, service_of

PHOTO = photograph()
BASE64 = base64.b64encode(PHOTO).decode()


def test_a_file_gives_the_result_of_the_classifier(classifier):
    answer = posted(service_of(classifier), files={"file": ("a/b.jpg", PHOTO)}, data={"top": "2"})
    assert answer.status_code == 200
    (result,) = answer.json()["results"]
    expected = classifier(Image.open(io.BytesIO(PHOTO)), top=2).to_dict()
    assert result == {**expected, "image": "a/b.jpg", "top": expected["top"]}
    assert [len(result["top"]), result["size"]] == [2, [60, 40]]


@pytest.mark.parametrize(
    "text", [BASE64, f"data:image/jpeg;base64,{BASE64}", f"{BASE64[:76]}\n{BASE64[76:]}\n"]
)
def test_json_gives_the_same(classifier, text):
    by_form = posted(service_of(classifier), files={"file": PHOTO}).json()["results"][0]
    answer = posted(service_of(classifier), json={"image": text})
    assert answer.json()["results"] == [{**by_form, "image": None}]


def test_several_images_are_answered_in_order(classifier):
    images = [photograph((30 + i, 20), seed=i) for i in range(5)]
    files = [("file", (f"{i}.jpg", image)) for i, image in enumerate(images)]
    results = posted(service_of(classifier), files=files).json()["results"]
    assert [(item["image"], item["size"][0]) for item in results] == [
        (f"{i}.jpg", 30 + i) for i in range(5)
    ]
    texts = [base64.b64encode(image).decode() for image in images]
    by_json = posted(service_of(classifier), json={"images": texts}).json()["results"]
    for item, expected in zip(by_json, results, strict=True):
        assert [item[key] for key in ("label", "size", "box")] == [
            expected[key] for key in ("label", "size", "box")
        ]
        assert item["score"] == pytest.approx(expected["score"], abs=1e-5)


def test_one_bad_image_among_several_is_named_and_the_others_are_answered(classifier):
    files = [("file", ("good.jpg", PHOTO)), ("file", ("bad.jpg", b"text"))]
    answer = posted(service_of(classifier), files=files)
    good, bad = answer.json()["results"]
    assert answer.status_code == 200
    assert good["label"] in CLASSES
    assert bad.keys() == {"image", "error"}
    assert bad["error"].startswith("bad.jpg: not a readable image")


def test_options_of_the_body_win_over_the_query(classifier):
    files = {"file": PHOTO}
    both = posted(
        service_of(classifier), "/predict?top=1&threshold=1", files=files, data={"top": "3"}
    )
    (result,) = both.json()["results"]
    assert len(result["top"]) == 3
    assert result["label"] == "unknown"


def test_requests_that_arrive_together_pass_the_network_together(classifier):
    service = service_of(classifier, max_batch=8, max_wait=1.0)

    async def ask(client):
        posts = [client.post("/predict", files={"file": photograph(seed=i)}) for i in range(8)]
        return await asyncio.gather(*posts)

    answers = served(service, ask)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert service.batcher.jobs == 8
    assert service.batcher.batches == 1


def test_a_batch_changes_no_answer(classifier):
    """Each request has its own top and threshold, and its own image."""
    service = service_of(classifier, max_batch=4, max_wait=1.0)
    images = [photograph(seed=i) for i in range(4)]

    async def ask(client):
        return await asyncio.gather(
            *(
                client.post(f"/predict?top={1 + i % 3}&threshold={i % 2}", files={"file": image})
                for i, image in enumerate(images)
            )
        )

    answers = [answer.json()["results"][0] for answer in served(service, ask)]
    alone = classifier([Image.open(io.BytesIO(image)) for image in images], top=3, batch_size=1)
    for i, (answer, expected) in enumerate(zip(answers, alone, strict=True)):
        assert len(answer["top"]) == 1 + i % 3
        assert (answer["label"] == "unknown") == bool(i % 2)
        assert answer["score"] == pytest.approx(expected.score, abs=1e-5)
        assert answer["box"] == expected.box


def test_a_plain_classifier_has_no_attention(plain):
    answer = posted(service_of(plain), "/predict?attention=true", files={"file": PHOTO})
    (result,) = answer.json()["results"]
    assert answer.status_code == 200
    assert result["attention"] is None and result["box"] is None
    assert "refined" not in result["top"][0]


def test_a_full_queue_is_429_and_then_free_again(classifier):
    service = service_of(classifier, queue=4, max_wait=0.2)

    async def ask(client):
        posts = [client.post("/predict", files={"file": PHOTO}) for _ in range(9)]
        answers = await asyncio.gather(*posts)
        too_many = await client.post("/predict", json={"images": [BASE64] * 5})
        return answers, too_many, await client.post("/predict", files={"file": PHOTO})

    answers, too_many, after = served(service, ask)
    codes = sorted(answer.status_code for answer in answers)
    assert codes == [200] * 4 + [429] * 5
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json() == {"error": "all 4 places of the queue are taken"}
    assert too_many.status_code == 413  # it would never find as many
    assert after.status_code == 200
    assert service.slots.taken == 0


def test_an_answer_that_takes_too_long_is_504(classifier, monkeypatch):
    service = service_of(classifier, timeout=0.1)
    monkeypatch.setattr(service.batcher, "submit", lambda _: asyncio.sleep(5))
    answer = posted(service, files={"file": PHOTO})
    assert answer.status_code == 504
    assert answer.json() == {"error": "the answer took longer than 0.1 s"}
    assert service.slots.taken == 0


def test_a_fault_of_the_model_shows_no_traceback(classifier, monkeypatch):
    service = service_of(classifier)

    def fail(_):
        raise RuntimeError("secret path /home/x")

    monkeypatch.setattr(service.batcher, "_run", fail)
    answer = posted(service, files={"file": PHOTO})
    assert answer.status_code == 500
    assert answer.json() == {"error": "the server failed (RuntimeError); its log says why"}


def test_health_says_what_is_served(classifier):
    async def ask(client):
        return await client.get("/healthz")

    service = service_of(classifier, queue=7)
    answer = served(service, ask)
    assert answer.status_code == 200
    assert answer.json() == {
        "ready": True,
        "model": {"backbone": "tiny", "classes": 3, "input": [32, 32], "attention": True},
        "device": "cpu",
        "queue": {"images": 0, "places": 7},
        "limits": {"bytes": 2**25, "pixels": 178_956_970, "files": 7, "seconds": 60.0},
    }
    service = service_of(classifier)
    service.ready = False
    assert served(service, ask).status_code == 503


def test_the_description_names_every_status_and_option(classifier):
    async def ask(client):
        return (await client.get("/openapi.json")).json()

    description = served(service_of(classifier), ask)
    predict = description["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert {item["name"] for item in predict["parameters"]} == {"top", "threshold", "attention"}
    statuses = {"200", "400", "403", "408", "413", "415", "422", "429", "503", "504"}
    assert set(predict["responses"]) == statuses
    assert set(description["paths"]) == {"/predict", "/healthz"}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/predict", 405), ("POST", "/", 405), ("GET", "/../pyproject.toml", 404),
     ("GET", "/page/index.html", 404), ("GET", "/redoc", 404), ("GET", "/nothing", 404)],
)  # fmt: skip
def test_other_paths_and_methods_are_json(classifier, method, path, status):
    async def ask(client):
        return await client.request(method, path)

    answer = served(service_of(classifier), ask)
    assert answer.status_code == status
    assert answer.json().keys() == {"error"}
