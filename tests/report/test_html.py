"""The HTML report: what it says, that it needs nothing beside it, and that a browser shows it."""

import base64
import io
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from protodl.core.config import Params, load_params
from protodl.core.training_log import ResultsError
from protodl.explanation.loading import shipped_accuracy
from protodl.report.figures.explanation_sheet import explanation_figure
from protodl.report.figures.page import save
from protodl.report.html import KINDS, OPEN, html_report
from protodl.report.results import read_rows
from protodl.report.results_page import PICTURES
from protodl.report.tables import SAMPLE_HEADING, tables
from tests.chromium import BINARY, Page, chromium
from tests.factories import ROOT, write_params, write_rows
from tests.report.figures.drawings import explanation

EXPERIMENTS = {
    "mnist-small-deconv": {"dataset": "mnist"},
    "own": {"dataset": "cifar10", "model": {"num_prototypes": 50}},
}
ACCURACIES = {"mnist-small-deconv": [0.991, 0.993], "own": [0.7, 0.8]}
CAPTIONS = {
    "correct-1": "Predicted Coat (93.4 %), label Coat; runner-up Shirt (5.0 %).",
    "correct-2": "Predicted Coat (93.4 %); runner-up Shirt (5.0 %). Out of distribution.",
    "wrong-1": 'Predicted Coat (93.4 %), label T-shirt <top> & "more"; runner-up Shirt (5.0 %).',
}
CARD = """# About <this>

A [paper](https://arxiv.org/abs/1710.04806) <b>bold</b>.

## Use

| for | not for |
|---|---|
| reading | driving |
"""
VOID = {"meta", "link", "img", "br", "hr", "input"}
LOADING = ("src", "href", "srcset", "poster", "action", "data", "background", "xlink:href")


def write_project(root: Path, source: str = "full") -> Params:
    """Two rows; the first with explanations and a model card, the second without."""
    params = write_params(root, EXPERIMENTS, seeds=[0, 1], source=source)
    write_rows(root / "rows", params, ACCURACIES)
    Image.new("RGB", (40, 20), "red").save(root / "overview.png")
    first = root / "rows" / "mnist-small-deconv"
    (root / "cards").mkdir()
    (root / "cards/mnist-small-deconv.md").write_text(CARD)
    for name, caption in CAPTIONS.items():
        write_explanation(first / "explanations", name, caption)
    return params


def write_explanation(folder: Path, name: str, caption: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"name": name, "caption": caption}))
    Image.new("RGB", (900, 300), "navy").save(folder / f"{name}.png")


def build(root: Path, params: Params) -> str:
    rows = read_rows(params, root / "rows")
    return html_report(rows, params, root / "rows", root / "cards", root / "overview.png")


class Document(HTMLParser):
    """A page as a list of its elements; fails where one is not closed in its order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, str]] = []  # with the element that each stands in
        self.open: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], " ".join(data.split())))

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]

    def texts_in(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


@pytest.fixture(name="root", scope="module")
def _root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    (root / "index.html").write_text(build(root, write_project(root)), encoding="utf-8")
    return root


@pytest.fixture(name="page", scope="module")
def _page(root: Path) -> str:
    return (root / "index.html").read_text(encoding="utf-8")


@pytest.fixture(name="document", scope="module")
def _document(page: str) -> Document:
    return Document(page)


def test_ids_are_unique_and_every_link_within_has_a_target(document: Document) -> None:
    ids = [attributes["id"] for _, attributes in document.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in document.all("a") if a["href"].startswith("#")]
    assert len(targets) > 10
    assert set(targets) <= set(ids)
    naming = ("aria-labelledby", "aria-describedby")
    named = {a[name] for _, a in document.elements for name in naming if name in a}
    assert named <= set(ids)


def test_every_picture_has_words_and_is_the_file(document: Document, root: Path) -> None:
    shown_files = [path for path in root.rglob("*.png") if path.stem != "correct-2"]
    files = {pixels(path.read_bytes(), "PNG") for path in shown_files}
    shown = set()
    for image in document.all("img"):
        head, _, data = image["src"].partition(",")
        assert head == "data:image/webp;base64"
        content = pixels(base64.b64decode(data, validate=True), "WEBP")
        assert content[0] == (int(image["width"]), int(image["height"]))
        assert len(image["alt"]) > 10
        shown.add(content)
    assert shown == files
    assert len(document.all("img")) == 1 + 2 * len(PICTURES) + 2


def pixels(data: bytes, form: str) -> tuple[tuple[int, int], bytes]:
    """Size and colours of a picture in this format."""
    with Image.open(io.BytesIO(data), formats=[form]) as picture:
        return picture.size, picture.convert("RGB").tobytes()


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the committed table, with a drawn explanation of each kind in every row."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(ROOT / "results", folder / "results")
    save(explanation_figure(explanation(50)), folder / "sheet.png")
    params = load_params(ROOT / "params.yaml")
    for row in params.experiments:
        sheets = folder / "results/rows" / row / "explanations"
        for kind in KINDS:
            write_explanation(sheets, f"{kind}-1", "Predicted Coat (93.4 %), label Coat.")
            shutil.copy(folder / "sheet.png", sheets / f"{kind}-1.png")
    rows = read_rows(params, folder / "results/rows")
    places = (folder / "results" / name for name in ("rows", "cards", "overview.png"))
    (folder / "index.html").write_text(html_report(rows, params, *places), encoding="utf-8")
    return folder / "index.html"


def test_the_page_of_the_whole_table_can_be_sent(whole: Path) -> None:
    rows = len(load_params(ROOT / "params.yaml").experiments)
    shown = 1 + rows * (len(PICTURES) + len(KINDS))
    assert whole.read_text(encoding="utf-8").count("<img ") == shown
    assert whole.stat().st_size < rows * 500_000


def test_nothing_is_loaded_from_anywhere(document: Document, page: str) -> None:
    outgoing = []
    for tag, attributes in document.elements:
        for name in attributes.keys() & set(LOADING):
            value = attributes[name]
            if tag == "a" and value.startswith("https://"):
                outgoing.append(value)
            else:
                assert value.startswith(("#", "data:")), (tag, name, value)
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
    assert outgoing == ["https://arxiv.org/abs/1710.04806"]
    assert not re.search(r"@import|url\(", page)
    (policy,) = [a for a in document.all("meta") if a.get("http-equiv")]
    assert policy["content"].startswith("default-src 'none'; img-src data:;")


def test_headings_go_down_a_step_at_a_time(document: Document) -> None:
    levels = [int(tag[1]) for tag, _ in document.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))


def test_landmarks_and_what_a_keyboard_needs(document: Document) -> None:
    assert document.all("html") == [{"lang": "en"}]
    for landmark in ("main", "nav", "h1", "title"):
        assert len(document.all(landmark)) == 1
    assert document.all("a")[0] == {"class": "skip", "href": "#main"}
    for _, attributes in document.elements:
        if attributes.get("class") in ("scroll", "card"):
            assert (attributes["tabindex"], attributes["role"]) == ("0", "region")
            assert attributes["aria-label"]
    assert {th["scope"] for th in document.all("th") if th} == {"col", "row"}


def test_the_table_is_that_of_the_markdown_page(document: Document, root: Path) -> None:
    params = write_params(root, EXPERIMENTS, seeds=[0, 1])
    rows = read_rows(params, root / "rows")
    shown = tables(rows).values()
    cells = document.texts_in("td")
    expected = [column.cell(row) for columns in shown for row in rows for column in columns]
    assert cells[: len(expected)] == expected
    assert expected[:3] == ["99.20 ± 0.14", "99.02", "+0.18"]
    headings = [column.heading for columns in shown for column in columns]
    assert document.texts_in("dt")[: len(headings)] == headings


def test_it_tells_how_it_was_made(document: Document) -> None:
    text = " ".join(text for _, text in document.texts)
    for words in (
        "published numbers were selected on the test set",
        "Abacus, 2 cores, device cpu, threads 2, float32",
        "make repro",
        "; seeds: 0, 1.",
        "Below the published number: none of 1 row.",
        "Kept epoch of 2: 2 (seed 0), 2 (seed 1)",
        "model.num_prototypes 50",
    ):
        assert words in text
    shown = [caption.format(seed=0) for caption in PICTURES.values()]
    assert [caption for caption in shown if caption not in text] == []
    assert "Confusion matrix of the test images, as seed 0 classifies them" in shown


def test_explained_test_images_are_shown_by_kind(document: Document) -> None:
    captions = [text for text in document.texts_in("figcaption") if text.startswith("Predicted")]
    assert captions == [CAPTIONS["correct-1"], CAPTIONS["wrong-1"]]  # the first of each kind
    texts = [image["alt"] for image in document.all("img")]
    assert [text for text in texts if text.startswith("Explanation: Predicted")] == [
        f"Explanation: {caption}" for caption in captions
    ]
    headings = document.texts_in("h4")
    assert [words for words in KINDS.values() if words in headings] == [
        KINDS["correct"],
        KINDS["wrong"],
    ]


def test_a_model_card_becomes_a_part_of_the_page(document: Document, page: str) -> None:
    assert "About <this>" in document.texts_in("h4")
    assert "Use" in document.texts_in("h5")
    assert "driving" in document.texts_in("td")
    assert any(text.endswith("<b>bold</b>.") for text in document.texts_in("p"))
    assert 'href="https://arxiv.org/abs/1710.04806"' in page
    assert document.texts_in("h3").count("Model card") == 1


def test_what_a_row_lacks_is_left_out(page: str) -> None:
    second = page.partition('<h2 id="row-own">')[2]
    assert "Model card" not in second
    assert "explained" not in second
    assert second.count("<img ") == len(PICTURES)


def test_the_pictures_that_stand_open_exist() -> None:
    assert set(OPEN) < set(PICTURES)


def test_the_sample_is_compared_with_nothing(tmp_path: Path) -> None:
    page = build(tmp_path, write_project(tmp_path, source="sample"))
    assert SAMPLE_HEADING.strip("*") in Document(page).texts_in("strong")
    assert "99.02" not in page
    assert "difference" not in Document(page).texts_in("dt")


@pytest.mark.parametrize("source", ["sample", "full"])
def test_a_sample_run_is_called_one_before_any_picture(tmp_path: Path, source: str) -> None:
    page = build(tmp_path, write_project(tmp_path, source=source))
    text = " ".join(re.sub("<[^>]*>", "", page[page.index("<main") : page.index("<img ")]).split())
    assert ("This is a sample run: short trainings" in text) == (source == "sample")
    assert ("accuracies and its pictures are not those of the table" in page) == (
        source == "sample"
    )


@pytest.mark.parametrize("accuracy", [0.3, 0.7])
def test_a_sample_run_shows_what_the_shipped_weights_reach(tmp_path: Path, accuracy: float) -> None:
    rows = {
        "mnist-small-deconv": {"dataset": "mnist"},
        "cifar10-small-deconv": {"dataset": "cifar10"},
    }
    params = write_params(tmp_path, rows, source="sample")
    reached = {"mnist-small-deconv": [0.9], "cifar10-small-deconv": [accuracy]}
    write_rows(tmp_path / "rows", params, reached)
    Image.new("RGB", (40, 20), "red").save(tmp_path / "overview.png")
    page = " ".join(build(tmp_path, params).split())
    for row in rows:
        assert f"{row} {shipped_accuracy(row):.2f} %" in page
    hopeless = accuracy < 0.5
    assert ("CIFAR-10 cannot be learned from so few images" in page) is hopeless
    assert ("cifar10-small-deconv by the shipped weights" in page) is hopeless
    assert "mnist-small-deconv by the shipped weights" not in page


def test_a_second_build_gives_the_same_page(page: str, root: Path) -> None:
    assert build(root, write_params(root, EXPERIMENTS, seeds=[0, 1])) == page


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    params = write_project(tmp_path)
    first = tmp_path / "rows" / "mnist-small-deconv"
    for path, error, words in [
        (first / "explanations/wrong-1.json", ResultsError, "is no explanation"),
        (first / "pictures/curves.png", ResultsError, "is not a PNG"),
    ]:
        content = path.read_bytes()
        path.write_text("{}")
        with pytest.raises(error, match=f"{re.escape(str(path))}: {words}.*dvc repro"):
            build(tmp_path, params)
        path.write_bytes(content)
    (first / "explanations/correct-1.png").unlink()
    with pytest.raises(OSError, match=r"correct-1\.png"):
        build(tmp_path, params)


# --- in a browser -------------------------------------------------------------------------------

in_a_browser = pytest.mark.skipif(BINARY is None, reason="Chromium is not installed")
WINDOWS = [(390, 844, False), (390, 844, True), (1280, 900, False), (1280, 900, True)]
DRAWN = """
Promise.all([...document.images].map((image) => {
  image.loading = "eager";  // those below and in what is folded, too
  return image.decode().then(() => image.naturalWidth);
}))
"""
TOO_WIDE = """
[...document.querySelectorAll("body *")].filter((element) =>
  !element.closest(".scroll, .card, nav, .skip, dialog, script, style")
  && element.getBoundingClientRect().right > document.documentElement.clientWidth + 1
).map((element) => element.outerHTML.slice(0, 80))
"""
CUT_ON_PAPER = """
[...document.querySelectorAll("main *")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.right > 704 || (element.matches("img, table") && box.height > 1032);
}).map((element) => element.outerHTML.slice(0, 80))
"""
COLOURS = """
["--text", "--quiet", "--accent", "--back", "--raised"].map((name) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim())
"""
FOCUSED = "document.activeElement.className || document.activeElement.id"


@pytest.fixture(name="browser", scope="module")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours such as #15181d; WCAG 2.2, section 1.4.3."""

    def luminance(colour: str) -> float:
        shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted([luminance(first), luminance(second)])
    return (lighter + 0.05) / (darker + 0.05)


@in_a_browser
@pytest.mark.parametrize(("width", "height", "dark"), WINDOWS)
def test_it_fits_a_phone_and_a_laptop(
    browser: Page, root: Path, document: Document, width: int, height: int, dark: bool
) -> None:
    browser.open(root / "index.html", width, height, dark)
    for unfolded in (False, True):
        if unfolded:
            browser.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
        assert browser.evaluate(TOO_WIDE) == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    widths = browser.evaluate(DRAWN)
    assert widths == [int(image["width"]) for image in document.all("img")]
    colours = browser.evaluate(COLOURS)
    back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", back))) < 150) == dark
    assert all(contrast(front, ground) >= 4.5 for front in colours[:3] for ground in colours[3:])
    assert browser.complaints == []


@in_a_browser
def test_on_paper_nothing_is_cut(browser: Page, whole: Path) -> None:
    """The paper's width is that of A4 without the margins that the page asks for."""
    browser.open(whole, 703, 1032)
    browser.call("Emulation.setEmulatedMedia", media="print")
    try:
        browser.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert browser.evaluate(DRAWN)
        assert browser.evaluate(CUT_ON_PAPER) == []
        assert browser.evaluate("document.querySelectorAll('main table').length") > 2
        assert browser.evaluate("document.querySelector('nav').clientHeight") == 0
        printed = browser.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True)
        assert b"%PDF" in base64.b64decode(printed["data"])[:8]
    finally:
        browser.call("Emulation.setEmulatedMedia", media="")


@in_a_browser
@pytest.mark.parametrize(("width", "height", "dark"), WINDOWS[1:3])
def test_links_lead_to_what_they_name(
    browser: Page, root: Path, width: int, height: int, dark: bool
) -> None:
    browser.open(root / "index.html", width, height, dark)
    links = browser.evaluate("[...document.links].map((link) => link.getAttribute('href'))")
    within = [link for link in links if link.startswith("#")]
    for link in dict.fromkeys(within):
        browser.evaluate(f"document.querySelector('a[href=\"{link}\"]').click()")
        at: dict[str, Any] = browser.evaluate(
            f"document.getElementById({link[1:]!r}).getBoundingClientRect().toJSON()"
        )
        bar = browser.evaluate("document.querySelector('nav').getBoundingClientRect().toJSON()")
        covered = bar["bottom"] if bar["width"] == width else 0
        assert link == "#main" or covered <= at["top"] < height, link
    assert browser.complaints == []


@in_a_browser
def test_a_picture_opens_large_by_keyboard(browser: Page, root: Path) -> None:
    browser.open(root / "index.html", 390, 844)
    browser.press("Tab")
    assert browser.evaluate(FOCUSED) == "skip"
    browser.press("Enter")
    assert browser.evaluate(FOCUSED) == "main"
    browser.press("Tab")
    assert browser.evaluate(FOCUSED) == "picture"
    assert browser.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    sheet = 'document.querySelector("h4 + figure .picture")'
    browser.evaluate(f"{sheet}.focus()")
    assert browser.evaluate(f"{sheet}.clientWidth") < 390
    browser.press("Enter")
    assert browser.evaluate("document.querySelector('dialog').open")
    assert browser.evaluate("document.querySelector('dialog img').clientWidth") == 900
    assert browser.evaluate("!!document.activeElement.closest('dialog')")
    browser.press("Escape")
    assert not browser.evaluate("document.querySelector('dialog').open")
    assert browser.evaluate(f"document.activeElement === {sheet}")
    assert browser.complaints == []


@in_a_browser
def test_a_small_picture_opens_as_many_whole_times_as_fit(browser: Page, root: Path) -> None:
    browser.open(root / "index.html", 1280, 900)
    browser.evaluate("document.querySelector('.picture').click()")
    assert browser.evaluate("document.querySelector('dialog img').clientWidth") == 40 * 32
    browser.evaluate("document.querySelector('dialog button').click()")
    assert not browser.evaluate("document.querySelector('dialog').open")
