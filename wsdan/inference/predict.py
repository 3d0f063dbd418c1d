"""Predictions as text, as JSON lines and as figures."""

from pathlib import Path

from wsdan.errors import UserError, printable
from wsdan.files import written_whole
from wsdan.inference.classifier import Classifier
from wsdan.inference.evaluate import VIEWS
from wsdan.inference.figures import captioned, view_grid
from wsdan.precision import input_dtype


def save_figure(classifier: Classifier, path: str | Path, figure: Path, result: dict) -> None:
    """Save the views of an image, captioned by its prediction; adds "figure" to the result.

    Raises UserError for an unreadable image, or if the figure cannot be written.
    """
    inputs = classifier.inputs([classifier.read(path)])
    inputs = inputs.to(classifier.device, input_dtype(classifier.model))
    best = result["top"][:3]
    score = "mean" if "mean" in best[0] else "raw"
    text = ", ".join(f"{printable(entry['class'])} {100 * entry[score]:.1f} %" for entry in best)
    try:
        with written_whole(figure, "wb") as file:
            grid = view_grid(classifier.model, inputs, classifier.config)
            captioned(grid, text).save(file, "PNG")
    except OSError as error:
        raise UserError(f"--figure: cannot write {figure}: {error.strerror}") from None
    result["figure"] = str(figure)


def figure_paths(images: list[str], folder: str) -> list[Path]:
    """The path folder/NAME.png for each image NAME.*; creates the folder.

    Raises UserError for two images with the same name, a figure that would replace one of the
    images, or a folder that cannot be created.
    """
    names = [Path(image).stem for image in images]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"--figure: the images must have different names; got {twice!r} twice")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--figure: cannot make the folder {folder}: {error.strerror}") from None
    figures = [Path(folder) / f"{name}.png" for name in names]
    sources = {Path(image).resolve() for image in images}
    replaced = next((figure for figure in figures if figure.resolve() in sources), None)
    if replaced is not None:
        raise UserError(f"--figure: its {replaced} would replace an image; name another folder")
    return figures


def prediction_text(result: dict) -> str:
    """A prediction as text for the terminal."""
    lines = [f"{printable(result['image'])} ({result['size'][0]} x {result['size'][1]})"]
    views = [view for view in VIEWS if view in result["top"][0]]
    names = [printable(entry["class"]) for entry in result["top"]]
    width = max(len(name) for name in names)
    lines.append("  " + " " * width + "".join(f"{view:>10}" for view in views))
    for name, entry in zip(names, result["top"], strict=True):
        row = "".join(f"{100 * entry[view]:8.1f} %" for view in views)
        lines.append(f"  {name:<{width}}{row}")
    if result["box"] is not None:
        x1, y1, x2, y2 = result["box"]
        lines.append(f"  object: x {x1} to {x2}, y {y1} to {y2}")
    if "figure" in result:
        lines.append(f"  figure: {printable(result['figure'])}")
    return "\n".join(lines)
