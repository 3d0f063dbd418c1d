"""The ablation: its variants compute what they say, no run is made twice, the table is right."""

import dataclasses
import json
import math

import ablation
import pytest
import torch
from evidence import objectives, runs, studies
from evidence.table import Line, difference, mean_and_spread, plot, summary, table
from evidence.trees import linked_tree
from PIL import Image

import wsdan.data.loaders
import wsdan.training.objective
from wsdan import WSDAN
from wsdan.training.objective import training_views, wsdan_objective
from wsdan_kernels import crop_resize

SMALL = {"image_size": 32, "num_attentions": 4, "batch_size": 8}


@pytest.fixture
def few_images(monkeypatch):
    monkeypatch.setattr(wsdan.data.loaders, "SYNTHETIC_TRAIN", 16)
    monkeypatch.setattr(wsdan.data.loaders, "SYNTHETIC_VAL", 8)


def small(name: str, settings: dict | None = None, **changes) -> studies.Row:
    (row,) = (row for row in studies.PARTS if row.name == name)
    settings = {**SMALL, **row.settings, **(settings or {})}
    return dataclasses.replace(row, settings=settings, **changes)


def batch(count: int = 6, side: int = 48) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((count, 3, side, side), generator=generator)
    return images, torch.arange(count) % 3, torch.rand((count, 4), generator=generator)


def peaked() -> torch.Tensor:
    """Maps (6,4,6,6) with a small object each, at a place of its own."""
    maps = torch.rand((6, 4, 36), generator=torch.Generator().manual_seed(1))
    return torch.where(maps == maps.amax(2, keepdim=True), maps, 0.1 * maps).view(6, 4, 6, 6)


def losses(objective, **options) -> tuple[dict, list]:
    """The losses of a new model on one batch, and the gradients of its weights."""
    torch.manual_seed(0)
    model = WSDAN("tiny", num_classes=3, num_attentions=4)
    images, labels, uniforms = batch()
    if "calmix" in options:
        uniforms = torch.rand(6, 6)
    result = objective(model, images, labels, uniforms=uniforms, move_centers=False, **options)
    result["loss"].backward()
    return result, [weight.grad for weight in model.parameters()]


def test_boxes_and_masks_are_those_of_the_training_views():
    images, _, uniforms = batch()
    attentions = peaked()
    boxes, masks = objectives.boxes_and_masks(images, attentions, uniforms)
    crops, drops = training_views(images, attentions, uniforms)
    assert torch.equal(crop_resize(images, boxes), crops)
    assert torch.equal(images * masks, drops)


def test_moved_boxes_and_masks_keep_their_areas_and_go_everywhere():
    height, width = 20, 30
    boxes = torch.tensor([[2, 3, 12, 9]], dtype=torch.int32).expand(4000, 4)
    masks = torch.ones(4000, 1, height, width)
    masks[:, :, 4:8, 5:7] = 0
    places = torch.rand((4000, 4), generator=torch.Generator().manual_seed(0))
    new_boxes, new_masks = objectives.moved(boxes, masks, places)
    assert torch.equal(new_boxes[:, 2:] - new_boxes[:, :2], boxes[:, 2:] - boxes[:, :2])
    assert new_boxes.dtype == torch.int32
    assert new_boxes[:, 0].unique().tolist() == list(range(width - 10 + 1))
    assert new_boxes[:, 1].unique().tolist() == list(range(height - 6 + 1))
    assert ((new_masks == 0).sum((1, 2, 3)) == 8).all() and new_masks.unique().tolist() == [0, 1]
    assert (new_masks == 0).any(dim=0).all()
    shifts = (int(places[0, 3] * height), int(places[0, 2] * width))
    assert torch.equal(new_masks[0, 0], masks[0, 0].roll(shifts, (0, 1)))


def test_random_views_do_not_follow_the_maps():
    images, _, uniforms = batch()
    attentions = peaked()
    torch.manual_seed(0)
    crops, drops = objectives.random_views(images, attentions, uniforms)
    again = objectives.random_views(images, attentions, uniforms)
    assert crops.shape == drops.shape == images.shape
    assert not torch.equal(crops, again[0]) and not torch.equal(drops, again[1])
    with pytest.raises(ValueError, match="both"):
        objectives.random_views(images, attentions, uniforms, names=("crop",))


def test_pooling_by_maximum_is_another_pooling():
    torch.manual_seed(0)
    model = WSDAN("tiny", num_classes=3, num_attentions=4, pool_eps=1e-6)
    before = model(batch()[0]).pooled
    objectives.pool_by_max(model)
    assert model.pool.options["reduce"] == "max" and model.pool.options["eps"] == 1e-6
    assert not torch.equal(model(batch()[0]).pooled, before)


@pytest.mark.parametrize("name", ["", "views of the input"])
def test_views_of_the_input_are_cut_from_it(name, monkeypatch, few_images):
    """With the same zoom, hence of the same images; in training and in evaluation."""
    seen, shapes = [], set()

    def views(images, attentions, uniforms, generator, large, names):
        seen.append(large is not None)
        shapes.add(images.shape[2:])
        return training_views(images, attentions, uniforms, generator, large, names)

    def evaluate(model, batches, config, device, **options):
        batches = list(batches)
        seen.extend(batch.inputs(config, device).large is not None for batch in batches)
        return evaluation(model, batches, config, device, **options)

    evaluation = wsdan.training.loop.evaluate
    monkeypatch.setattr(wsdan.training.loop, "evaluate", evaluate)
    variant = objectives.VARIANTS[name]._replace(views=views)
    monkeypatch.setitem(objectives.VARIANTS, name, variant)
    row = small(studies.WHOLE.name, {"zoom": 2.0}, variant=name)
    runs.result(runs.Trial(row, "embedded", 0, 3))
    assert len(seen) > 2 and set(seen) == {name == ""} and shapes == {(32, 32)}


def test_every_row_has_the_same_budget():
    """Of the passes that its steps make, counted."""

    def passes(config, views):
        options = {"calmix": config.calmix} if config.calmix else {}
        result, _ = losses(wsdan_objective, views=views, **options)
        return len({"raw", "crop", "drop", "mix"} & result.keys())

    for study, data in (("parts", "embedded"), ("parts", "groceries"), ("calmix", "groceries")):
        budget = studies.DATA[data].budget
        for row in studies.STUDIES[study]:
            config = runs.Trial(row, data, 0, budget).config()
            if config.method == "baseline":
                assert config.epochs == budget
                continue
            after = passes(config, config.train_view_names) * (config.epochs - config.raw_epochs)
            assert after + config.raw_epochs * passes(config, ()) == budget, row.name


@pytest.mark.parametrize("study", studies.STUDIES)
def test_names_of_rows_are_unique(study):
    rows = studies.STUDIES[study]
    assert len({row.name for row in rows}) == len(rows)


def test_a_result_is_found_from_another_folder():
    """The key names no folder, neither of the images nor of the weights."""
    trials = [
        runs.Trial(studies.WHOLE, "groceries", 0, 12, root=root, weights=weights)
        for root, weights in (("/one", "/one/squeezenet.pth"), (None, "squeezenet.pth"))
    ]
    assert trials[0].key() == trials[1].key()
    assert trials[0].key()["settings"]["weights"] == "squeezenet.pth"


def test_a_budget_that_is_no_whole_number_of_epochs_is_refused():
    with pytest.raises(ValueError, match="7 passes"):
        runs.Trial(studies.WHOLE, "embedded", 0, 7).config()


def test_a_run_that_is_there_is_not_run_again(tmp_path, monkeypatch, few_images):
    evaluated = []

    def evaluate(model, batches, config, device):
        evaluated.append(config.refine_threshold)
        return original(model, batches, config, device)

    original = runs.evaluate
    monkeypatch.setattr(runs, "evaluate", evaluate)
    row = small("max pooling")
    row = dataclasses.replace(row, settings={**row.settings, "refine_threshold": 0.4})
    trial = runs.Trial(row, "embedded", 0, 3)
    record = runs.result(trial)
    assert record["passes"] == 3 and record["metrics"]["images"] == 8
    assert [view["threshold"] for view in record["views"]] == [0.1, 0.4, "auto"]
    assert record["views"][1] == {"threshold": 0.4, **record["metrics"]}
    assert evaluated == [0.1, "auto"]  # that of the run itself is known
    path = tmp_path / "runs.jsonl"
    runs.Results(path).add(record)
    results = runs.Results(path)
    assert results.find(trial) == record
    for other in (
        dataclasses.replace(trial, seed=1),
        dataclasses.replace(trial, budget=6),
        dataclasses.replace(trial, row=small("joint views")),
        dataclasses.replace(trial, row=small("+ crop and drop (WS-DAN)")),
    ):
        assert results.find(other) is None
    defaults = dataclasses.replace(row, name="another", settings={**row.settings, "beta": 0.05})
    assert results.find(dataclasses.replace(trial, row=defaults)) == record


@pytest.mark.parametrize("name", ["crop alone", "max pooling"])
def test_a_variant_is_what_trains(name, tmp_path, few_images):
    trial = runs.Trial(small(name), "embedded", 0, 6)
    config = dataclasses.replace(trial.config(), out=str(tmp_path / "run"))
    with runs._trained(config, trial.row) as run:
        (record,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").open().readlines()[-1:])
        assert ("drop" in record) == (name == "max pooling")
        assert (run.state.model.pool.options["reduce"] == "max") == (name == "max pooling")
    assert wsdan.training.objective.OBJECTIVES["wsdan"] is wsdan_objective


def test_images_are_held_out_of_train(tmp_path):
    for split, count in (("train", 8), ("val", 1)):
        for name in ("apple", "pear"):
            (tmp_path / "all" / split / name).mkdir(parents=True)
            for number in range(count):
                path = tmp_path / "all" / split / name / f"{number}.png"
                Image.new("RGB", (40, 40), (number * 20, 0, 0)).save(path)
    linked_tree(tmp_path / "all", tmp_path / "links", held_out=True)
    parts = {
        split: sorted(path.name for path in (tmp_path / "links" / split / "pear").iterdir())
        for split in ("train", "val")
    }
    assert parts == {"train": [f"{i}.png" for i in (0, 1, 2, 4, 5, 6)], "val": ["3.png", "7.png"]}
    row = small("+ center loss", {"backbone": "tiny"})
    trial = runs.Trial(row, "groceries", 0, 1, root=str(tmp_path / "all"), held_out=True)
    record = runs.result(trial)
    assert record["metrics"]["images"] == 4 and record["held_out"]
    assert str(tmp_path) not in json.dumps(record)


def test_a_tail_thins_the_training_images_and_takes_some_classes(tmp_path):
    for split, count in (("train", 10), ("val", 3)):
        for number in range(6):
            folder = tmp_path / "all" / split / f"class{number}"
            folder.mkdir(parents=True)
            for image in range(count):
                (folder / f"{image}.png").touch()
    links = tmp_path / "links"
    linked_tree(tmp_path / "all", links, every=2, tail=0.1)
    counts = {
        split: [
            len(list(path.iterdir())) for path in sorted((tmp_path / "links" / split).iterdir())
        ]
        for split in ("train", "val")
    }
    assert counts == {"train": [10, 3, 2], "val": [3, 3, 3]}  # 10, 10 x 0.1^(1/2), at least 2
    kept = {path.name for path in (links / "train" / "class2").iterdir()}
    assert kept == {"0.png", "1.png", "2.png"}


def line(name: str, metrics: dict[int, dict], group: str = "g") -> Line:
    records = {
        seed: {"metrics": values, "settings": {"epochs": 4}, "seconds": 9.0}
        for seed, values in metrics.items()
    }
    return Line(studies.Row(name, group), records)


LINES = [
    line("plain", {0: {"raw": 70.0}, 1: {"raw": 72.0}}),
    line("whole", {0: {"raw": 71.0, "refined": 75.0, "mean": 76.0},
                   1: {"raw": 73.0, "refined": 76.0, "mean": 77.0}}),
    line("one seed", {1: {"raw": 60.0, "refined": 61.0, "mean": 78.5}}, "other"),
]  # fmt: skip


def test_the_table():
    assert mean_and_spread([1.0, 2.0, 3.0]) == (2.0, 1.0)
    assert math.isnan(mean_and_spread([1.0])[1])
    assert difference(LINES[0], LINES[1]) == [-6.0, -5.0]
    assert difference(LINES[2], LINES[1]) == [1.5]  # of the seed that both have
    assert difference(LINES[1], LINES[2]) == [-1.5]
    text = table(LINES, LINES[1]).splitlines()
    assert text[0].endswith("| mean | final against whole |")
    assert text[2] == "| plain | 4 | 2 | 71.0 ± 1.4 | - | - | -5.5 ± 0.7 |"
    assert text[3].endswith("| 76.5 ± 0.7 | - |")
    assert text[4] == "| one seed | 4 | 1 | 60.0 | 61.0 | 78.5 | +1.5 |"
    rows = summary(LINES, LINES[1])
    assert rows[0]["against"]["values"] == [-6.0, -5.0] and rows[0]["against"]["mean"] == -5.5
    assert rows[2]["metrics"]["mean"] == {"values": [78.5], "mean": 78.5, "spread": None}
    assert [row["seeds"] for row in rows] == [[0, 1], [0, 1], [1]] and rows[0]["epochs"] == 4
    assert summary(LINES, LINES[2])[0]["against"]["values"] == [-6.5]


def test_the_table_at_another_threshold(tmp_path, monkeypatch, capsys):
    def result(trial):
        views = [{"threshold": t, "raw": 5.0, "refined": 100 * t, "mean": 7.0} for t in (0.1, 0.4)]
        views.append({"threshold": "auto", "raw": 5.0, "refined": 8.0, "mean": 9.0})
        plain = trial.row == studies.PLAIN
        views = [] if plain else views
        own = {"raw": 3.0} if plain else views[1]
        return {**trial.key(), "row": trial.row.name, "metrics": own, "views": views}

    monkeypatch.setattr(ablation, "result", result)
    rows = ["--rows", studies.PLAIN.name, studies.WHOLE.name, "--seeds", "0"]
    arguments = [*rows, "--results", str(tmp_path / "runs.jsonl")]
    ablation.main(arguments)
    assert "| 5.0 | 40.0 | 7.0 |" in capsys.readouterr().out
    ablation.main([*arguments, "--threshold", "0.1"])
    out = capsys.readouterr().out
    ablation.main([*arguments, "--threshold", "auto"])
    assert "| 5.0 | 8.0 | 9.0 |" in capsys.readouterr().out
    assert "| 5.0 | 10.0 | 7.0 |" in out and "| 3.0 | - | - | -4.0 |" in out
    with pytest.raises(SystemExit, match="evaluated at 0.1, 0.4, auto"):
        ablation.main([*arguments, "--threshold", "0.2"])


def test_the_plot(tmp_path):
    plot(LINES, LINES[1], "title", str(tmp_path / "plot.png"))
    with Image.open(tmp_path / "plot.png") as image:
        assert image.width > 600


def test_the_command_runs_what_is_missing(tmp_path, monkeypatch, capsys):
    made = []

    def result(trial):
        made.append((trial.row.name, trial.seed))
        return {**trial.key(), "metrics": {"raw": 50.0 + trial.seed}, "seconds": 1.0}

    monkeypatch.setattr(ablation, "result", result)
    names = ["plain backbone", "+ center loss"]
    path = tmp_path / "runs.jsonl"
    arguments = ["--rows", *names, "--results", str(path), "--base", names[0]]
    ablation.main([*arguments, "--seeds", "0"])
    ablation.main([*arguments, "--seeds", "0", "1", "--json", str(tmp_path / "table.json")])
    assert made == [(name, seed) for seed in (0, 1) for name in names]  # seeds in rounds
    assert "| plain backbone | 24 | 2 | 50.5 ± 0.7 |" in capsys.readouterr().out
    assert len(path.read_text().splitlines()) == 4
    assert len(json.loads((tmp_path / "table.json").read_text())["rows"]) == 2
    ablation.main([*arguments, "--table", "--seeds", "0", "1", "2"])
    assert len(made) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "no such"], "no row 'no such'"),
        (["--data", "groceries"], "needs --root"),
        (["--held-out"], "other seeds"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        ablation.main(arguments)
    assert message in capsys.readouterr().err


def test_a_wrong_budget_ends_before_the_first_run(monkeypatch):
    monkeypatch.setattr(ablation, "result", lambda trial: pytest.fail("it ran"))
    with pytest.raises(SystemExit, match="no whole number of epochs"):
        ablation.main(["--passes", "8", "--results", "none"])


@pytest.mark.parametrize(("mean", "passes"), [(9.0, False), (11.0, True)])
def test_quick_fails_if_the_method_has_not_learned(monkeypatch, mean, passes):
    def result(trial):
        whole = trial.row == studies.WHOLE
        return {**trial.key(), "metrics": {"raw": 20.0, **({"mean": mean} if whole else {})}}

    monkeypatch.setattr(ablation, "result", result)
    if passes:
        ablation.main(["--quick"])
    else:
        with pytest.raises(SystemExit, match="--quick"):
            ablation.main(["--quick"])
