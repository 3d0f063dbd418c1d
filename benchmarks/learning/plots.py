"""The figure of compared steps: losses on top of each other, and below how far they are apart."""

from pathlib import Path

from harness.report import require_matplotlib
from learning.steps import Compared

BOUNDS = {"losses": 1e-9, "gradients": 1e-7}
SMALLEST = 1e-17  # where a difference of 0 is drawn


def draw(steps: list[Compared], title: str, path: Path) -> None:
    require_matplotlib()
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True, layout="constrained")
    numbers = range(1, len(steps) + 1)
    for name, colour in (("loss", "C0"), ("raw", "C1"), ("center", "C2")):
        expected, found = (
            [getattr(s, kind)[name] for s in steps] for kind in ("published", "ours")
        )
        top.plot(numbers, expected, color=colour, label=f"{name}, published")
        top.plot(numbers, found, "x", color=colour, markersize=4, label=f"{name}, ours")
    most = max(step.published["loss"] for step in steps)
    top.set(title=title, ylabel="loss of the step", ylim=(0, 1.3 * most))
    top.legend(ncols=3, fontsize="small")
    apart = [abs(s.left_alone["loss"] / s.published["loss"] - 1) for s in steps]
    curves = {
        "losses": [step.losses for step in steps],
        "gradients": [step.gradients for step in steps],
        "weights, statistics and centers after it": [
            max(step.weights, step.statistics, step.centers) for step in steps
        ],
        "loss of a run that is left alone": apart,
    }
    for number, (name, values) in enumerate(curves.items()):
        style = ":" if "alone" in name else "-"
        shown = [max(value, SMALLEST) for value in values]
        bottom.semilogy(numbers, shown, style, color=f"C{number}", label=name)
        if name in BOUNDS:
            bottom.axhline(BOUNDS[name], color=f"C{number}", linestyle="--", linewidth=0.8)
    bottom.set(xlabel="step", ylabel="largest relative difference", ylim=(SMALLEST, 10))
    bottom.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
