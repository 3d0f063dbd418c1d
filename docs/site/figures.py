"""Draw the figures of docs/operators: what each operator returns for an embedded image.

python docs/site/figures.py [NAME...]    all, or those named, to docs/images/NAME.png
"""

import io
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.patches import Rectangle
from PIL import Image
from torch import Tensor

import wsdan_kernels as wk
from wsdan.data.synthetic import draw

IMAGES = Path(__file__).parents[1] / "images"
SIDE, GRID = 256, 32
TEAL, ORANGE = "#00796b", "#e65100"
CLASSES = (TEAL, ORANGE, "#5e35b1")
_SEED, _FIRST, _SECOND = 4, 3, 9


def scene(index: int) -> tuple[Tensor, Tensor]:
    """An image (1,3,H,W) in [0,1], and three maps (1,3,h,w): body, left wing, right wing."""
    sample = draw(_SEED, index, SIDE)
    image = torch.from_numpy(sample.image).permute(2, 0, 1)[None].float() / 255
    x1, y1, x2, y2 = (value / SIDE for value in sample.box)
    rows = torch.linspace(0, 1, GRID)
    centre_y, width, height = (y1 + y2) / 2, x2 - x1, y2 - y1
    maps = []
    for share, spread in ((0.5, 0.28), (0.25, 0.18), (0.75, 0.15)):
        across = ((rows - (x1 + share * width)) / (spread * width)) ** 2
        down = ((rows - centre_y) / (spread * height)) ** 2
        maps.append(torch.exp(-(across[None] + down[:, None]) / 2))
    return image, torch.stack(maps)[None]


def shown(axis, image: Tensor, title: str, map_: Tensor | None = None) -> None:
    """An image (3,H,W), under a map (h,w)."""
    axis.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), extent=(0, SIDE, SIDE, 0))
    if map_ is not None:
        axis.imshow(map_.numpy(), extent=(0, SIDE, SIDE, 0), alpha=0.55, interpolation="bilinear")
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()


def outline(axis, box: Tensor, colour: str = ORANGE) -> None:
    x1, y1, x2, y2 = box.tolist()
    frame = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=2)
    axis.add_patch(frame)


def row(count: int):
    return plt.subplots(1, count, figsize=(2.5 * count, 2.9), dpi=100, layout="constrained")


def features_of(image: Tensor) -> Tensor:
    """Twelve plain channels (1,12,h,w): colours and their edges."""
    small = torch.nn.functional.interpolate(image, (GRID, GRID), mode="area")
    edges = [small.diff(dim=axis, prepend=small.narrow(axis, 0, 1)) for axis in (2, 3)]
    return torch.cat((small, small.square(), *edges), 1)


def bilinear_attention_pool():
    image, maps = scene(_FIRST)
    pooled = wk.bilinear_attention_pool(features_of(image), maps)[0]
    figure, axes = row(4)
    for number in range(3):
        shown(axes[number], image[0], f"map {number}", maps[0, number])
    axes[3].imshow(pooled.numpy(), cmap="PuOr", aspect="auto", vmin=-0.4, vmax=0.4)
    axes[3].set(title="pooled (M,C)", xlabel="channel", ylabel="map")
    axes[3].set(xticks=range(0, 12, 3), yticks=range(3))
    return figure


def attend_and_pool():
    image, _ = scene(_FIRST)
    features = features_of(image)
    weight = torch.randn((3, 12), generator=torch.Generator().manual_seed(1))
    found = wk.attend_and_pool(features, weight, torch.nn.BatchNorm2d(3).eval())
    maps = found[1].detach()
    figure, axes = row(4)
    shown(axes[0], image[0], "image")
    for number in range(3):
        shown(axes[number + 1], image[0], f"map {number}", maps[0, number])
    return figure


def sample_attention():
    _, maps = scene(_FIRST)
    drawn = wk.sample_attention(maps, 2000, generator=torch.Generator().manual_seed(0))[0]
    counts = torch.bincount(drawn, minlength=3) / 2000
    weights = maps[0].mean((1, 2)).sqrt()
    figure, axis = plt.subplots(figsize=(5, 2.6), dpi=100, layout="constrained")
    places = torch.arange(3)
    axis.bar(places - 0.2, weights / weights.sum(), 0.4, color=TEAL, label="probability")
    axis.bar(places + 0.2, counts, 0.4, color=ORANGE, label="share of 2,000 draws")
    axis.set(xticks=range(3), xticklabels=[f"map {n}" for n in range(3)])
    axis.legend(frameon=False)
    return figure


def attention_boxes():
    image, maps = scene(_FIRST)
    figure, axes = row(3)
    for axis, threshold in zip(axes, (0.2, 0.5, 0.8), strict=True):
        found = wk.attention_boxes(maps[:, 0], (SIDE, SIDE), threshold=threshold, padding=0.0)
        shown(axis, image[0], f"threshold {threshold}", maps[0, 0])
        outline(axis, found[0])
    return figure


def crop_resize():
    image, maps = scene(_FIRST)
    found = wk.attention_boxes(maps[0], (SIDE, SIDE), threshold=0.5, padding=0.0)
    crops = wk.crop_resize(image.repeat(3, 1, 1, 1), found, (SIDE, SIDE))
    figure, axes = row(4)
    shown(axes[0], image[0], "boxes")
    for number in range(3):
        outline(axes[0], found[number])
        shown(axes[number + 1], crops[number], f"crop {number}")
    return figure


def attention_drop():
    image, maps = scene(_FIRST)
    figure, axes = row(3)
    for axis, threshold in zip(axes, (0.2, 0.5, 0.8), strict=True):
        view = wk.attention_drop(image, maps[:, 0], threshold=threshold)
        shown(axis, view[0], f"threshold {threshold}")
    return figure


def attention_crop():
    image, maps = scene(_FIRST)
    views, found = wk.attention_crop(image, maps[:, 1], threshold=0.5)
    return _boxed(image, maps[0, 1], found[0], [(views[0], "its crop")])


def attention_crop_drop():
    image, maps = scene(_FIRST)
    crops, drops = wk.attention_crop_drop(
        image, maps[:, 0], maps[:, 1], crop_threshold=0.5, drop_threshold=0.5
    )
    figure, axes = row(4)
    shown(axes[0], image[0], "map to crop", maps[0, 0])
    shown(axes[1], image[0], "map to drop", maps[0, 1])
    shown(axes[2], crops[0], "crop")
    shown(axes[3], drops[0], "drop")
    return figure


def attention_refine():
    image, maps = scene(_FIRST)
    views, found = wk.attention_refine(image, maps, threshold=0.3)
    return _boxed(image, maps[0].mean(0), found[0], [(views[0], "refined view")])


def _boxed(image: Tensor, map_: Tensor, box: Tensor, views: list):
    """An image (1,3,H,W), a map (h,w) with its box, and views (3,H,W) with titles."""
    figure, axes = row(2 + len(views))
    shown(axes[0], image[0], "image")
    shown(axes[1], image[0], "map and box", map_)
    outline(axes[1], box)
    for axis, (view, title) in zip(axes[2:], views, strict=True):
        shown(axis, view, title)
    return figure


def otsu_thresholds():
    image, maps = scene(_FIRST)
    mean = maps.mean(1)
    threshold = wk.otsu_thresholds(mean)
    found = wk.attention_boxes(mean, (SIDE, SIDE), threshold=threshold, padding=0.0)
    figure, axes = row(2)
    axes[0].hist((mean / mean.max()).flatten().numpy(), 40, color=TEAL, log=True)
    axes[0].axvline(threshold.item(), color=ORANGE)
    axes[0].set_title(f"threshold {threshold.item():.2f}", fontsize=10)
    shown(axes[1], image[0], "its box", mean[0])
    outline(axes[1], found[0])
    return figure


def attention_swap():
    scenes = [scene(index) for index in (_FIRST, _SECOND)]
    images = torch.cat([image for image, _ in scenes])
    maps = torch.cat([maps[:, 0] for _, maps in scenes])
    found = wk.attention_boxes(maps, (SIDE, SIDE), threshold=0.5, padding=0.0)
    views = wk.attention_swap(images, found, torch.tensor([1, 0]))
    figure, axes = row(4)
    for number in range(2):
        shown(axes[number], images[number], f"image {number}")
        outline(axes[number], found[number])
        shown(axes[number + 2], views[number], f"view {number}")
        outline(axes[number + 2], found[number])
    return figure


def _classes() -> tuple[Tensor, Tensor, Tensor]:
    """Sixty points (60,2) of three classes, their labels, and centers that are not theirs yet."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    means = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [-0.4, 1.0], [-0.5, -0.8]]))
    points = means[labels] + 0.18 * torch.randn((60, 2), generator=generator)
    return points, labels, torch.nn.functional.normalize(torch.randn((3, 2), generator=generator))


def _plane(axis, points: Tensor, labels: Tensor, centers: Tensor, title: str) -> None:
    for label, colour in enumerate(CLASSES):
        axis.scatter(*points[labels == label].T, s=10, color=colour)
        axis.scatter(*centers[label], s=160, marker="*", color=colour, edgecolor="black", zorder=3)
    axis.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), aspect="equal")
    axis.set_title(title, fontsize=10)


def center_loss():
    points, labels, centers = _classes()
    near = torch.stack([points[labels == label].mean(0) for label in range(3)])
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.3), dpi=100, layout="constrained")
    for axis, where in zip(axes, (centers, near), strict=True):
        unit = torch.nn.functional.normalize(where)
        for point, label in zip(points, labels, strict=True):
            axis.plot(*torch.stack((point, unit[label])).T, color=CLASSES[label], linewidth=0.4)
        loss = wk.center_loss(points, where, labels).item()
        _plane(axis, points, labels, unit, f"loss {loss:.2f}: the mean of the squared lengths")
    return figure


def update_centers_():
    points, labels, centers = _classes()
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.3), dpi=100, layout="constrained")
    _plane(axes[0], points, labels, centers, "before")
    path = [centers.clone()]
    for _ in range(8):
        wk.update_centers_(centers, points, labels, duplicates="mean", beta=0.4)
        path.append(centers.clone())
    for steps, colour in zip(torch.stack(path, 1), CLASSES, strict=True):
        axes[1].plot(*steps.T, color=colour, marker=".", linewidth=1)
    _plane(axes[1], points, labels, centers, "after eight updates")
    return figure


FIGURES = (
    bilinear_attention_pool, attend_and_pool, sample_attention, attention_boxes, crop_resize,
    attention_drop, attention_crop, attention_crop_drop, attention_refine, otsu_thresholds,
    attention_swap, center_loss, update_centers_,
)  # fmt: skip


def main(names: list[str]) -> None:
    for function in FIGURES:
        if not names or function.__name__ in names:
            figure, file = function(), io.BytesIO()
            figure.savefig(file)
            plt.close(figure)
            small = Image.open(file).convert("RGB").quantize(256)
            small.save(IMAGES / f"{function.__name__}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
