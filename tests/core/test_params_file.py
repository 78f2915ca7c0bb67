"""Files of parameters as YAML: what readers stumble over is named, in a few lines, at once."""

import os
import time
from pathlib import Path

import pytest

from protodl.core.check import check_params
from protodl.core.config import ConfigError, load_params
from tests.pipeline.project import PARAMS, Project

pytestmark = pytest.mark.faults
FILE = "seeds: [0]\nexperiments:\n  one: {dataset: mnist, epochs: 24}\n"
SECONDS, BYTES = 2.0, 4000


def refusal(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    start = time.process_time()
    with pytest.raises(ConfigError) as error:
        check_params(path)
    assert time.process_time() - start < SECONDS
    message = str(error.value)
    assert len(message.encode()) <= BYTES
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("007", "one.epochs = 007: not a number that is read alike everywhere"),
        ("012", "; did you mean 12?"),
        ("-08", "one.epochs = -08"),
        ("2_500", "; did you mean 2500?"),
        ("0b1010", "one.epochs = 0b1010"),
        ("0xFF", "one.epochs = 0xFF"),
        ("0o7", "one.epochs = 0o7"),
        ("3:15", "one.epochs = 3:15"),
        ("3:15.5", "one.epochs = 3:15.5"),
        ("1998-02-31", "one.epochs = 1998-02-31"),
        ("2001-12-14t21:59:43.10-05:00", "one.epochs = 2001-12-14t21:59:43"),
        ("!!int twelve", "one.epochs = twelve"),
        ("!!float 1_0", "one.epochs = 1_0"),
        ("!!bool maybe", "one.epochs = maybe"),
        ("!!timestamp noon", "one.epochs = noon"),
        ("8" * 4400, "one.epochs = 888"),
        ("4" * 30, "less than or equal to 1000000"),
        ("=", "one.epochs = '='"),
        ("!!binary ä", "is not valid YAML: failed to"),
        ("!!python/name:os.system ''", "could not determine a constructor"),
        ("*nobody", "undefined alias 'nobody'"),
        ("&own [*own]", "one.epochs = [[[...]]]"),
        ("[" * 60 + "]" * 60, "nested more than 20 deep"),
        ("24}}", "is not valid YAML"),
    ],
)
def test_what_is_no_plain_number_is_refused_by_its_key(
    value: str, named: str, tmp_path: Path
) -> None:
    assert named in refusal(tmp_path / "params.yaml", FILE.replace("24", value))


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("<<: {epochs: 3}", "no merge keys (<<) here"),
        ("12: {dataset: mnist}", "'12' cannot be a key"),
        ("1e3: {dataset: mnist}", "'1e3' cannot be a key"),
        ("0o10: {dataset: mnist}", "'0o10' cannot be a key"),
        ("2024-05-06: {dataset: mnist}", "'2024-05-06' cannot be a key"),
        ("off: {dataset: mnist}", "'off' cannot be a key"),
        ("? [a]\n  : {dataset: mnist}", "cannot be a key"),
        ('"a\\eb": {dataset: mnist}', "experiments.a\\x1bb: row name 'a\\x1bb'"),
    ],
)
def test_what_dvc_would_take_for_another_key_is_refused(
    key: str, named: str, tmp_path: Path
) -> None:
    assert named in refusal(tmp_path / "params.yaml", f"{FILE}  {key}\n")


def laughs(levels: int) -> str:
    nests = [f"a{i}: &a{i} [{', '.join(['*a' + str(i - 1)] * 9)}]\n" for i in range(1, levels)]
    return "a0: &a0 [ha, ha]\n" + "".join(nests)


MANY = range(2000)
LARGE: dict[str, str | bytes] = {
    "nested anchors": laughs(60) + FILE,
    "merged anchors": laughs(9).replace("[*", "{<<: [*").replace("]\n", "]}\n") + FILE,
    "wrong seeds": FILE.replace("[0]", str(["x" for _ in MANY])),
    "wrong rows": FILE + "".join(f"  r{i}: {{dataset: x{i}}}\n" for i in MANY),
    "data sets": "datasets:\n"
    + "".join(f"  d{i}: {{folder: x}}\n" for i in MANY)
    + FILE.replace("mnist", "minst"),
    "a long key": FILE + f"  ? {'語' * 20_000}\n  : 1\n",
    "a long value": FILE.replace("mnist", "m" * 60_000),
    "a large file": FILE + "#" * 50_000_000,
    "other bytes": FILE.encode("utf-16"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_no_file_makes_a_long_message_or_wait(kind: str, tmp_path: Path) -> None:
    refusal(tmp_path / "params.yaml", LARGE[kind])


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(ConfigError, match=r"cannot be read \(it is no file\)"):
        load_params(tmp_path / "params.yaml")


@pytest.mark.parametrize("base", ["params.yaml", "b" * 999, '"\\0"', '"\\ud812"'])
def test_a_study_on_itself_or_on_no_path_is_refused(base: str, tmp_path: Path) -> None:
    text = f"base: {base}\nexperiments: {{a: {{dataset: mnist, row: a}}}}\n"
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ConfigError) as error:
        load_params(tmp_path / "params.yaml")
    assert len(str(error.value)) < BYTES


MISTAKES = {
    ("epochs: 2", "epochs: 010"): "grey.epochs = 010: ",
    ("epochs: 2", "<<: {epochs: 1}"): "no merge keys",
    ("epochs: 2", "epochs: 10000000000000"): "grey.epochs = 10000000000000: ",
    ("epochs: 2", "augment: {shift: 28}"): "at most 27",
    ("epochs: 2", "optimizer_name: sgd"): "did you mean 'optimizer'?",
    ("num_prototypes: 4", "num_prototypes: 70000"): "mnist has 60000 training images",
}


@pytest.mark.slow
def test_dvc_s_first_stage_says_the_same_and_no_other_runs(tmp_path: Path) -> None:
    project = Project.create(tmp_path / "project")
    for change, named in MISTAKES.items():
        project.write_params(PARAMS.replace(*change))
        done = project.run_dvc("repro")
        assert done.returncode != 0
        assert "error: params.yaml: " in done.stderr
        assert named in done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.encode()) < BYTES
        assert done.stdout.count("Running stage") == 1
    assert not (project.folder / "models").exists()
