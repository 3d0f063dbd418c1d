"""Predictions as text, as JSON lines and as figures."""

from wsdan.errors import printable
from wsdan.inference.evaluate import VIEWS


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
    return "\n".join(lines)
