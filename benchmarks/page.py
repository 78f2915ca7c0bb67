"""SPEED.md: every figure in a table, with what it means and the machine it was measured on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

Results = Mapping[str, Any]

SHOWN = ("processor", "threads", "precision", "torch", "git_revision")
TITLES = {
    "batch_size": "batch size",
    "num_prototypes": "number of prototypes",
    "channels": "channels of the image",
    "encoder": "widths of the encoder",
}


def speed_page(results: Results) -> str:
    """The page of all sections that have been measured."""
    parts = {
        "throughput": training,
        "elastic": elastic,
        "time_to_published": time_to_published,
        "profile": profiles,
        "step_milliseconds": growth,
        "evaluation_microseconds": answers,
        "peak_mebibytes": memory,
        "side_by_side": side_by_side,
        "pipeline": pipeline,
        "same_results": same_results,
    }
    text = [part(results) for name, part in parts.items() if name in results]
    return "\n\n".join([introduction(results), *text]) + "\n"


def table(head: Sequence[str], cells: Iterable[Sequence[object]]) -> str:
    """A table in Markdown."""
    right = ("left", *["right"] * (len(head) - 1))
    rows = [[str(cell) for cell in row] for row in cells]
    return tabulate(rows, head, "pipe", disable_numparse=True, colalign=right if rows else None)


def introduction(results: Results) -> str:
    """What holds for all figures, and the machines."""
    machines: dict[str, list[str]] = {}
    for section, facts in results["measured"].items():
        machine = ", ".join(f"{name.replace('_', ' ')} {facts[name]}" for name in SHOWN)
        machines.setdefault(machine, []).append(section)
    lines = [f"- {', '.join(sections)}: {machine}" for machine, sections in machines.items()]
    return (
        "# Speed\n\n"
        "Made by `make bench`. What is compared is measured in one run, in turns, after a warm-up, "
        "and a figure is the median of its rounds; all on the CPU, on random images where no other "
        "are named, with the recipes of a section's revision. "
        "Each section with the machine and the revision that it was measured on:\n\n"
        + "\n".join(lines)
    )


def training(results: Results) -> str:
    """Images a second beside the port's way, and the share of peak."""
    cells = [
        [
            row,
            f"{speed['images_per_second']:,.0f}",
            f"{speed['port_images_per_second']:,.0f}",
            f"**{speed['ratio']:.1f}**",
            f"{speed['recipe_images_per_second']:,.0f}",
            f"{results['operations'][row]['megaflop_per_image']:,.0f}",
            f"{results['operations'][row]['achieved_gflops']:,.0f}",
            f"{results['operations'][row]['peak_gflops']:,.0f}",
            f"{100 * results['share_of_peak'][row]:.0f} %",
        ]
        for row, speed in results["throughput"].items()
    ]
    head = ["row", "images/s", "port's way", "ratio", "recipe", "Mflop/image", "Gflop/s", "peak"]
    return (
        "## Training\n\n![Training throughput beside the port's way; how a step's time grows]"
        "(speed.png)\n\n" + table([*head, "share of peak"], cells) + "\n\n"
        "- images/s: training steps of the row's network with the published terms of the loss and "
        "the published augmentation (elastic deformation), data included.\n"
        "- port's way: the same work as the published port does it ([port_way.py](port_way.py)): "
        "SciPy image by image in DataLoader workers, NCHW float32, losses fetched in every step. "
        "Each measurement goes from resting workers to resting workers.\n"
        "- ratio: images/s over port's way.\n"
        "- recipe: images a second with the row's own loss and augmentation.\n"
        "- Mflop/image: operations of convolutions and matrix products in a step, forward and "
        "backward, counted from shapes as they are carried out; Gflop/s: those over the time.\n"
        "- peak: a 2048 x 2048 matrix product of the same precision, in turns with the training; "
        "share of peak: Gflop/s over peak."
    )


def elastic(results: Results) -> str:
    """Elastic deformation alone."""
    speed = results["elastic"]
    return (
        "## Elastic deformation\n\n"
        f"Alone, on one core, drawing the noise included: {speed['images_per_second']:,.0f} images "
        f"a second, SciPy image by image {speed['scipy_images_per_second']:,.0f}: "
        f"**{speed['ratio']:.1f} times**."
    )


def time_to_published(results: Results) -> str:
    """Time to the published accuracy beside the port's time."""
    cells = [
        [
            row,
            f"{100 * found['published']:.2f}",
            f"{found['reached']} of {found['seeds']}",
            "never" if found["seconds"] is None else f"{found['seconds']:,.0f} s",
            f"{found['port_seconds'] / 3600:,.1f} h",
            "-" if found["factor"] is None else f"**{found['factor']:,.0f}**",
            f"{100 * found['best_held_out']:.2f}",
            f"{found['processor']}, {found['threads']} threads, {found['precision']}",
        ]
        for row, found in results["time_to_published"].items()
    ]
    head = ["row", "published", "seeds that reach it", "time", "port's time", "factor"]
    return (
        "## Time to the published accuracy\n\n"
        + table([*head, "best held out", "trained on"], cells)
        + "\n\n- time: from the start of training, selection included, to the first epoch whose "
        "validation accuracy is at least the published one (in percent; the port's best on "
        "the test images of 1,500 epochs); median over the seeds, one that never reaches it counts "
        "as endless. From the committed logs (`results/rows/<row>/training/`).\n"
        "- port's time: its 1,500 epochs at the rate of the port's way measured above, on the same "
        "number of training images; factor: port's time over time.\n"
        "- best held out: highest accuracy on validation images, median over the seeds."
    )


def profiles(results: Results) -> str:
    """The operators that take most of a step, of three kinds of rows."""
    chosen = one_of_each_network(list(results["profile"]))
    blocks = [
        table([row, "share of time"], [[f"`{op}`", f"{100 * share:.0f} %"] for op, share in ops])
        for row, ops in results["profile"].items()
        if row in chosen
    ]
    return (
        "## What a step spends its time on\n\n"
        "Operators by their own time in the main thread, children left out, under torch's "
        "profiler, in the steps that are compared above; all rows are in results.json.\n\n"
        + "\n\n".join(blocks)
    )


def one_of_each_network(rows: Iterable[str]) -> list[str]:
    """The first row of each network; the names end with architecture and decoder."""
    first: dict[tuple[str, ...], str] = {}
    for row in rows:
        first.setdefault(tuple(row.split("-")[-2:]), row)
    return list(first.values())


def growth(results: Results) -> str:
    """Milliseconds of a step as one thing grows."""
    blocks = [
        table([TITLES[name], *steps], [["ms a step", *(f"{ms:.1f}" for ms in steps.values())]])
        for name, steps in results["step_milliseconds"].items()
    ]
    return (
        "## How the cost grows\n\n"
        "Milliseconds of a training step of the first row, its recipe, with one thing changed. "
        "Channels and widths are compared on 32 x 32 pixels, widths on three channels.\n\n"
        + "\n\n".join(blocks)
    )


def answers(results: Results) -> str:
    """Evaluation and explanation."""
    cells = [
        [row, f"{found['classify']:.1f}", f"{found['explain']:.1f}"]
        for row, found in results["evaluation_microseconds"].items()
    ]
    return (
        "## An answer and its explanation\n\n"
        + table(["row", "classify (µs)", "explain (µs)"], cells)
        + "\n\nMicroseconds an image, 500 at once: classified without the decoder; explained, that "
        "is, with distances, each prototype's contributions, and the reconstruction."
    )


def memory(results: Results) -> str:
    """Peak memory of a training."""
    cells = [
        [row, f"{found['training']:,.0f}", f"{found['imports']:,.0f}"]
        for row, found in results["peak_mebibytes"].items()
    ]
    return (
        "## Memory\n\n"
        + table(["row", "training (MiB)", "imports (MiB)"], cells)
        + "\n\nMost memory resident in a fresh process after three training steps of the recipe, "
        "less the most that it had after its imports alone. The 4,000 random images are part of "
        "it; a whole data set takes up to 150 MiB more."
    )


def side_by_side(results: Results) -> str:
    """Several trainings at once."""
    counts = list(next(iter(results["side_by_side"].values())))
    cells = [
        [
            row,
            *(
                f"{each['images_per_second']:,.0f} (x {each['ratio']:.2f})"
                for each in found.values()
            ),
        ]
        for row, found in results["side_by_side"].items()
    ]
    return (
        "## Side by side\n\n"
        + table(["row", *(f"{count} at once" for count in counts)], cells)
        + "\n\nImages a second of that many trainings together, the threads divided among them as "
        "`protodl run -j N` does, and how many times that is of one training."
    )


def pipeline(results: Results) -> str:
    """What DVC and MLflow add."""
    found = results["pipeline"]
    share = found["logging_share"]
    cells = [[stage, f"{s:.1f}"] for stage, s in found["stage_overhead_seconds"].items()]
    return (
        "## The pipeline\n\n"
        + table(["stage", "own time (s)"], cells)
        + "\n\n- own time: of each stage in one `dvc repro` of one row on the sample, imports and "
        "DVC's bookkeeping included, the training itself left out.\n"
        f"- `dvc repro` of all rows with nothing to do: {found['noop_repro_seconds']:.1f} s.\n"
        "- From the start of the train stage's process to the end of its first step: "
        f"{found['first_step_seconds']:.1f} s.\n"
        "- Showing the training in MLflow (curves, pictures): "
        f"{1000 * found['logging_seconds_per_epoch']:.0f} ms an epoch"
        + ("" if share is None else f", {100 * share:.1f} % of an epoch on the full data")
        + "."
    )


def same_results(results: Results) -> str:
    """Accuracy with the fast layers and with the plain ones."""
    cells = [
        [
            row,
            ", ".join(f"{100 * share:.2f}" for share in found["fast"]),
            ", ".join(f"{100 * share:.2f}" for share in found["plain"]),
            f"{100 * found['difference']:+.2f} ± {100 * found['standard_error']:.2f}",
        ]
        for row, found in results["same_results"].items()
    ]
    return (
        "## The same results\n\n"
        + table(["row", "fast layers", "plain layers", "difference of means"], cells)
        + "\n\nValidation accuracy (percent) of two epochs of the recipe on the full data, three "
        "seeds each, and its standard error. Values and gradients of every fast path are compared "
        "with the plain one by the tests."
    )
