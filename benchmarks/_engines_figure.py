"""The figure of `engines.py`: milliseconds per step against the number of qubits, a panel for each batch and depth."""

from pathlib import Path
from typing import Any


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw the cases of `document` (what `engines.py` writes as JSON); bars are quartiles over rounds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    panels = sorted({(case["dtype"], case["layers"], case["batch"]) for case in document["cases"]})
    names = list(dict.fromkeys(name for case in document["cases"] for name in case["contenders"]))
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 3.6 * lines), squeeze=False, sharey=True)
    for axis, panel in zip(axes.flat, panels, strict=False):
        for index, name in enumerate(names):
            points = [
                (case["n"], [1e3 * value for value in case["contenders"][name]["seconds"]])
                for case in document["cases"]
                if (case["dtype"], case["layers"], case["batch"]) == panel and "seconds" in case["contenders"][name]
            ]
            if points:
                low, middle, high = zip(*(times for _, times in points), strict=True)
                bars = [
                    [m - a for m, a in zip(middle, low, strict=True)],
                    [b - m for m, b in zip(middle, high, strict=True)],
                ]
                style = {"color": f"C{index}", "marker": "o", "markersize": 4, "capsize": 2}
                axis.errorbar([n for n, _ in points], middle, bars, label=name, **style)
        axis.set_yscale("log")
        axis.set_title(f"B = {panel[2]}, {panel[1]} layers, {panel[0]}", fontsize=10)
        axis.set_xlabel("qubits")
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("ms a train step")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    handles = {label: line for axis in axes.flat for line, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(
        handles.values(), handles.keys(), loc="lower center", ncols=min(len(handles), 3 * columns), fontsize=9
    )
    figure.suptitle(document["machine"]["cpu"] + f", {document['machine']['cores_used']} cores", fontsize=9)
    figure.tight_layout(rect=(0, (0.14 if columns == 1 else 0.08) / lines, 1, 1))
    figure.savefig(path, dpi=150)
    plt.close(figure)
