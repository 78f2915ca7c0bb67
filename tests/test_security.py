"""What comes from outside is data: it runs nothing, leaves no folder, and is shown as it is."""

import ast
import html
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from protodl.core.config import load_params
from protodl.core.params_file import ConfigError
from protodl.report.cards import literal
from protodl.tracking.served import _export
from tests.factories import ROOT
from tests.tracking.records import served

pytestmark = pytest.mark.faults
PACKAGES = ("protodl", "stages", "studies", "benchmarks", "data")
NEVER = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("torch.jit.load", "torch.export.load"),
    *(f"{module}.{name}" for module in ("pickle", "cloudpickle", "dill", "joblib", "marshal")
      for name in ("load", "loads", "Unpickler")),
}  # fmt: skip
NEVER_WITH = {("allow_pickle", True), ("shell", True), ("weights_only", False)}
# A served model, which MLflow loads by running its script: see docs/reliability.md.
SERVED = ("protodl/tracking/served_model.py", "torch.export.load")
SAFE = ("protodl/core/params_file.py", "yaml.load")  # by a SafeLoader that knows fewer tags


def dangers(text: str) -> Iterator[str]:
    """The calls of a source file that could run what they are given."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {(each.arg, getattr(each.value, "value", None)) for each in node.keywords}
        unsafe = name == "torch.load" and ("weights_only", True) not in given
        if unsafe or name in NEVER or given & NEVER_WITH:
            yield name


def test_the_search_finds_what_it_looks_for() -> None:
    text = """
torch.load(path)
torch.load(path, weights_only=False)
np.load(path, allow_pickle=True)
yaml.load(text, Loader)
subprocess.run(text, shell=True)
model.eval(), torch.load(path, weights_only=True), yaml.safe_load(text), re.compile(text)
"""
    assert len(list(dangers(text))) == 5


def test_nothing_of_ours_loads_what_could_run_code() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), name)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for name in dangers(path.read_text(encoding="utf-8"))
    ]
    assert set(found) == {SERVED, SAFE}


def test_a_model_that_is_logged_holds_numbers_and_text_only(tmp_path: Path) -> None:
    """Its loader, torch's, would unpickle objects: there are none in what we write."""
    program = tmp_path / "program.pt2"
    _export(served(), program)
    with zipfile.ZipFile(program) as archive:
        names = archive.namelist()
        configs = [name for name in names if name.endswith("_config.json")]
        assert len(configs) == 2
        for name in configs:
            described = json.loads(archive.read(name))["config"]
            assert not any(each["use_pickle"] for each in described.values())
        (example,) = [name for name in names if name.endswith(".pt")]
        with archive.open(example) as file:
            torch.load(file, weights_only=True)


PATHS = ("../a", "a/b", "/a", ".", "..", "a\\b", "C:a", "a\x00b", "~", "$HOME", "")
MARKUP = ("<script>", "a|b", "`a`", "[a](javascript:b)", "a b", "A", "-a", "a\n")


@pytest.mark.parametrize("name", PATHS + MARKUP)
@pytest.mark.parametrize("section", ["experiments", "datasets"])
def test_names_of_rows_and_data_sets_are_plain_words(
    section: str, name: str, tmp_path: Path
) -> None:
    """They become folders, files, links and parts of pages."""
    params = {
        "seeds": [0],
        "datasets": {"mnist": {"torchvision": "MNIST"}},
        "recipes": {"mnist": {}},
        "experiments": {"row": {"dataset": "mnist"}},
    }
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    load_params(tmp_path / "params.yaml")
    params[section] |= {name: next(iter(params[section].values()))}  # type: ignore[operator,attr-defined]
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    with pytest.raises(ConfigError, match="name"):
        load_params(tmp_path / "params.yaml")


TEXTS = st.text(st.characters(exclude_characters="\x00"), max_size=30)


@given(TEXTS | st.sampled_from(MARKUP))
def test_a_text_in_markdown_is_shown_as_it_is(text: str) -> None:
    """By a reader that lets HTML through."""
    markdown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    shown = markdown.render(f"| a | b |\n|---|---|\n| {literal(text)} | end |")
    cells = shown.split("<tbody>")[1].replace("</td>", "").split("<td>")[1:]
    assert "<" not in cells[0]
    assert html.unescape(cells[0]).strip() == " ".join(text.split())
