"""Digits drawn and photographed in the ways that people do, and pictures of other things.

Everything is drawn by strokes here: no font, no file, nothing that a network was trained on.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]
Colour = tuple[int, int, int]


def arc(x: float, y: float, wide: float, high: float, start: float, end: float) -> list[Point]:
    """Points of an ellipse's arc from one angle to another, in degrees."""
    angles = [math.radians(start + (end - start) * i / 24) for i in range(25)]
    return [(x + wide * math.cos(a), y + high * math.sin(a)) for a in angles]


# Strokes of each digit in a unit square, x to the right, y down.
STROKES: dict[int, list[list[Point]]] = {
    0: [arc(0.5, 0.5, 0.32, 0.48, -80, 285)],
    1: [[(0.35, 0.2), (0.55, 0.02), (0.52, 0.98)]],
    2: [[*arc(0.5, 0.28, 0.3, 0.27, 190, 380), (0.55, 0.62), (0.2, 0.95), (0.84, 0.93)]],
    3: [arc(0.48, 0.26, 0.28, 0.24, 200, 440) + arc(0.48, 0.73, 0.32, 0.25, -80, 160)],
    4: [[(0.45, 0.02), (0.15, 0.6), (0.85, 0.58)], [(0.66, 0.3), (0.62, 0.98)]],
    5: [[(0.78, 0.04), (0.3, 0.06), (0.26, 0.45), *arc(0.47, 0.68, 0.32, 0.28, -120, 150)]],
    6: [[(0.68, 0.03), (0.4, 0.3), *arc(0.48, 0.7, 0.29, 0.28, 190, 550)]],
    7: [[(0.15, 0.08), (0.82, 0.06), (0.42, 0.98)]],
    8: [arc(0.5, 0.26, 0.25, 0.23, 90, 450) + arc(0.5, 0.74, 0.3, 0.25, -90, 270)],
    9: [[*arc(0.48, 0.3, 0.28, 0.27, -20, 340), (0.76, 0.3), (0.7, 0.6), (0.6, 0.98)]],
}

LETTERS: dict[str, list[list[Point]]] = {
    "A": [[(0.1, 0.98), (0.5, 0.02), (0.9, 0.98)], [(0.25, 0.62), (0.75, 0.62)]],
    "K": [[(0.15, 0), (0.15, 1)], [(0.85, 0), (0.15, 0.55)], [(0.4, 0.4), (0.9, 1)]],
    "M": [[(0.05, 1), (0.1, 0), (0.5, 0.6), (0.9, 0), (0.95, 1)]],
    "W": [[(0, 0), (0.25, 1), (0.5, 0.3), (0.75, 1), (1, 0)]],
    "R": [[(0.15, 1), (0.15, 0), *arc(0.35, 0.25, 0.45, 0.25, -90, 90), (0.15, 0.5), (0.9, 1)]],
    "X": [[(0.1, 0), (0.9, 1)], [(0.9, 0), (0.1, 1)]],
}


@dataclass(frozen=True)
class Manner:
    """How something is drawn and photographed; lengths in pixels, colours in RGB."""

    name: str
    width: int = 400
    height: int = 400
    paper: Colour = (255, 255, 255)
    ink: Colour = (20, 20, 20)
    size: int = 260
    top: int = 70
    left: int = 70
    stroke: float = 0.05  # of the size
    gradient: float = 0  # how much darker the far corner is
    noise: float = 0  # standard deviation, of 1
    ruled: bool = False


MANNERS = (
    Manner("pen on white"),
    Manner("light on black", paper=(0, 0, 0), ink=(255, 255, 255), size=300, stroke=0.08),
    Manner("ballpoint on ruled paper", 640, 480, (245, 244, 235), (30, 40, 140), 300, 80, 160,
           0.025, noise=0.01, ruled=True),
    Manner("phone", 3024, 4032, (205, 200, 190), (40, 40, 60), 1500, 1200, 700, 0.03, 0.35, 0.03),
    Manner("in a corner", 600, 800, (240, 240, 240), (60, 0, 0), 120, 40, 430, 0.08),
    Manner("in a wide picture", 1200, 300, (250, 250, 240), (0, 0, 0), 200, 60, 800, 0.06),
    Manner("chalk", 500, 500, (30, 60, 45), (225, 225, 215), 320, 60, 100, 0.05, noise=0.04),
    Manner("pencil", 500, 500, (235, 235, 232), (150, 150, 150), 300, 80, 100, 0.03, noise=0.01),
    Manner("red on yellow", 300, 420, (250, 225, 90), (200, 30, 30), 200, 100, 50, 0.08),
    Manner("thick marker", 300, 300, ink=(10, 10, 10), size=240, top=30, left=30, stroke=0.16),
)  # fmt: skip


def draw(strokes: list[list[Point]], manner: Manner, seed: int) -> Image.Image:
    """Draw strokes with a slightly unsteady hand; the same seed gives the same picture."""
    hand = random.Random(seed)
    angle, slant, narrow = (
        hand.uniform(-0.17, 0.17),
        hand.uniform(-0.15, 0.25),
        hand.uniform(0.75, 1),
    )
    finer = 4 if manner.size < 600 else 1  # drawn larger and made small, as Pillow's edges are hard
    side = manner.size * finer
    mask = Image.new("L", (side, side))
    canvas, pen = ImageDraw.Draw(mask), max(1, int(manner.stroke * side))
    for stroke in strokes:
        points = []
        for u, v in stroke:
            x, y = (u - 0.5) * narrow + hand.gauss(0, 0.006), v - 0.5 + hand.gauss(0, 0.006)
            x -= slant * y
            x, y = (
                x * math.cos(angle) - y * math.sin(angle),
                x * math.sin(angle) + y * math.cos(angle),
            )
            points.append(((x * 0.8 + 0.5) * side, (y * 0.8 + 0.5) * side))
        canvas.line(points, fill=255, width=pen, joint="curve")
        for x, y in (points[0], points[-1]):
            canvas.ellipse([x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2], fill=255)
    mask = mask.resize((manner.size, manner.size), Image.Resampling.LANCZOS)
    return _photographed(np.asarray(mask, np.float32) / np.float32(255), manner, seed)


def _photographed(ink: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", manner: Manner,
                  seed: int) -> Image.Image:  # fmt: skip
    height, width = manner.height, manner.width
    page = np.ones((height, width, 3), np.float32) * np.array(manner.paper, np.float32)
    if manner.ruled:
        for y in range(30, height, 60):
            page[y : y + 3] = (170, 190, 220)
    cover = np.zeros((height, width, 1), np.float32)
    top, left = manner.top, manner.left
    cover[top : top + manner.size, left : left + manner.size, 0] = ink
    page = page * (1 - cover) + np.array(manner.ink, np.float32) * cover
    down, across = (
        np.linspace(1, 1 - manner.gradient / 2, height),
        np.linspace(1, 1 - manner.gradient, width),
    )
    page *= (down[:, None] * across)[..., None]
    page += np.random.default_rng(seed).normal(0, manner.noise * 255, page.shape)
    return Image.fromarray(page.clip(0, 255).astype(np.uint8))


def drawn_digits(times: int = 1) -> Iterator[tuple[str, int, Image.Image]]:
    """Ten pictures for each time, one in each manner; every digit comes up as often."""
    for turn in range(times):
        for place, manner in enumerate(MANNERS):
            digit = (7 * place + 3 * turn) % 10
            yield f"{digit}, {manner.name}", digit, draw(STROKES[digit], manner, 10 * turn + place)


def other_things() -> Iterator[tuple[str, Image.Image]]:
    """Ten pictures that show no digit: letters, a face, a landscape, blank ones and noise."""
    for place, (letter, strokes) in enumerate(LETTERS.items()):
        yield letter, draw(strokes, MANNERS[0], place)
    rng = np.random.default_rng(0)
    yield "blank", Image.new("RGB", (300, 300), "white")
    yield "black", Image.new("RGB", (300, 300), "black")
    yield "noise", Image.fromarray(rng.integers(0, 255, (300, 300, 3), dtype=np.uint8))
    yield "landscape", _landscape(rng)


def _landscape(rng: np.random.Generator) -> Image.Image:
    y, _ = np.mgrid[:300, :400]
    view = np.stack([120 + y * 0.3, 160 + y * 0.2, 230 - y * 0.1], axis=-1)
    view[180:] = (60, 120, 50)
    view[100:180, 100:220] = (150, 60, 40)
    return Image.fromarray((view + rng.normal(0, 8, view.shape)).clip(0, 255).astype(np.uint8))
