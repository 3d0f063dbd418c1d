"""The studies: which rows are trained, and on what.

A row is a name, the settings of `wsdan train` that it changes and perhaps a variant of
objectives.py. Rows of a study have an equal budget of passes of an image through the network: a row
whose step passes fewer views trains more epochs.
"""

from dataclasses import dataclass, field, replace

from wsdan.constants import AUTO


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Args:
        name: of the row, unique in its study.
        group: the heading under which a plot shows it.
        settings: of wsdan.config.Config, over those of the data set.
        variant: a key of objectives.VARIANTS.
    """

    name: str
    group: str
    settings: dict[str, object] = field(default_factory=dict)
    variant: str = ""


@dataclass(frozen=True)
class DataSet:
    """What a row is trained on.

    Args:
        settings: of wsdan.config.Config. They were chosen without the images reported on.
        budget: passes of an image through the network in a whole run.
        thresholds: of the refined view, with which a trained model is evaluated besides its own.
        root: whether the images are read from --root.
        every, tail: the classes and training images that are taken, see trees.linked_tree.
    """

    settings: dict[str, object]
    budget: int
    thresholds: tuple[float | str, ...]
    root: bool
    every: int = 1
    tail: float = 1.0


PUBLISHED = {"train_views": "crop+drop", "views_after": 0.0}  # not the embedded recipe's
# As published, a tighter box, and that of each image by its map.
THRESHOLDS = (0.1, 0.4, AUTO)
GROCERIES = DataSet(
    {
        "data": "folder", "cache": "ram", "backbone": "squeezenet1_1", "image_size": 96,
        "num_attentions": 16, "batch_size": 16, "optimizer": "adamw", "lr": 3e-4,
        "schedule": "cosine", "warmup": 0.1, "precision": "fp32",
    },
    12, THRESHOLDS, root=True,
)  # fmt: skip
DATA = {
    "embedded": DataSet({"data": "synthetic", **PUBLISHED}, 24, THRESHOLDS, root=False),
    "groceries": GROCERIES,
    "groceries-half": replace(GROCERIES, every=2, thresholds=(0.1,)),
    "groceries-tail": replace(GROCERIES, every=2, thresholds=(0.1,), tail=0.1),
}

RAW = {"views_after": 1.0}  # no view beside the raw one
PLAIN = Row("plain backbone", "added one by one", {"method": "baseline"})
WHOLE = Row("+ crop and drop (WS-DAN)", "added one by one")
PARTS = (
    PLAIN,
    Row("+ attention pooling", PLAIN.group, {**RAW, "center_weight": 0.0}),
    Row("+ center loss", PLAIN.group, RAW),
    WHOLE,
    Row("crop alone", "one part less", {"train_views": "crop"}),
    Row("drop alone", "one part less", {"train_views": "drop"}),
    Row("without center loss", "one part less", {"center_weight": 0.0}),
    Row("random crop and erase", "another in its place", {}, "random views"),
    Row("max pooling", "another in its place", {}, "max pooling"),
    Row("joint views", "another in its place", {"joint_views": True}),
    Row("counterfactual loss", "one part more", {"counterfactual": 1.0}),
    Row("crop after half", "another order", {"train_views": "crop", "views_after": 0.5}),
    *(
        Row(f"{m} {'map' if m == 1 else 'maps'}", "number of maps", {"num_attentions": m})
        for m in (1, 4, 8, 16, 32)
    ),
)
# To choose on (--held-out, seeds from 100 on): a rate that is good for one method may not be for
# the other.
RATES = tuple(
    Row(f"{row.name}, {lr:g}", row.name, {**row.settings, "lr": lr})
    for row in (PLAIN, WHOLE)
    for lr in (1e-4, 3e-4, 1e-3)
)
COUNTERFACTUAL = next(row for row in PARTS if row.name == "counterfactual loss")
CALMIX = (  # arXiv:2605.18700 has the counterfactual loss too; a step passes four views
    WHOLE,
    COUNTERFACTUAL,
    Row("mixed view", "CALMix", {"calmix": 1.0}),
    Row("both (CALMix)", "CALMix", {"counterfactual": 1.0, "calmix": 1.0}),
)
ADAMW = Row("AdamW, cosine, warm-up", "optimizer")
SGD = {"optimizer": "sgd", "lr": 1e-3}
RECIPE = (
    Row("SGD, x0.9 every 2 epochs", ADAMW.group, {**SGD, "schedule": "step", "warmup": 0.0}),
    Row("SGD 1e-2, cosine, warm-up", ADAMW.group, {**SGD, "lr": 1e-2}),
    ADAMW,
    Row("+ layer decay 0.8", "one more", {"layer_decay": 0.8}),
    Row("+ label smoothing 0.1", "one more", {"label_smoothing": 0.1}),
    Row("+ EMA 0.99", "one more", {"ema": 0.99}),
    Row("+ backbone frozen for an epoch", "one more", {"freeze": 1}),
)
SHUFFLED = Row("shuffled", "unequal classes")
TAIL = (
    SHUFFLED,
    Row("balanced sampling", SHUFFLED.group, {"sampler": "balanced"}),
    Row("class weights 0.99", SHUFFLED.group, {"class_weights": 0.99}),
)
# 2.6: photographs of groceries have 256 pixels or more on a side; 96 px are cut out of 110.
ZOOM = (WHOLE, Row("true zoom", "zoom", {"zoom": 2.6}))
# Images of the embedded set, drawn at 512 px for either input; both rows of a group see the same.
ZOOM_512 = tuple(
    Row(f"{side} px, {name}", f"input of {side} px", {"image_size": side, "zoom": 512 / side}, kind)
    for side in (128, 64)
    for name, kind in (("views of the input", "views of the input"), ("true zoom", ""))
)
STUDIES = {
    "parts": PARTS, "rates": RATES, "calmix": CALMIX, "recipe": RECIPE, "tail": TAIL,
    "zoom": ZOOM, "zoom-512": ZOOM_512,
}  # fmt: skip
