"""The house rules that no other tool looks after."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TARGETS = {
    "demo",
    "try",
    "test",
    "test-all",
    "test-cluster",
    "check",
    "repro",
    "ablation",
    "price",
    "long",
    "modern",
    "bench",
    "ui",
    "table",
    "weights",
    "sync",
    "lock",
    "clean",
    "help",
}


def project_files() -> list[Path]:
    """Text files that are, or would be, in git, without what was computed."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    binary = {".png", ".gz", ".pt", ".jpg", ".db"}
    computed = ("dvc.lock", "RESULTS.md", "results/")
    names = [name for name in listed.stdout.split("\0") if not name.startswith(computed)]
    return [path for name in names if (path := ROOT / name).is_file() and path.suffix not in binary]


def pins() -> dict[str, list[Requirement]]:
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement = Requirement(line)
            found.setdefault(requirement.name, []).append(requirement)
    return found


def test_requirements_are_exact_pins() -> None:
    for alternatives in pins().values():
        for requirement in alternatives:
            (pin,) = requirement.specifier
            assert pin.operator == "==", requirement
            assert not requirement.url


def test_requirements_cover_pyproject() -> None:
    """`make lock` was run after the last change of the dependencies."""
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for text in wanted:
        requirement = Requirement(text)
        pinned = pins().get(requirement.name, [])
        assert pinned, f"{requirement.name} is not in requirements.txt: run `make lock`"
        for pin in pinned:
            (version,) = (specifier.version for specifier in pin.specifier)
            assert requirement.specifier.contains(Version(version)), f"{pin}: run `make lock`"


def test_every_package_that_is_imported_is_a_dependency() -> None:
    modules = {"yaml": "pyyaml", "PIL": "pillow", "markdown_it": "markdown-it-py"}
    modules["pydantic_core"] = "pydantic"  # its own core, of the same version
    modules["pillow_heif"] = "pillow-heif"
    extras = PROJECT["optional-dependencies"]
    wanted = [
        *PROJECT["dependencies"],
        *(text for name in ("cluster", "heic", "onnx", "search") for text in extras[name]),
    ]
    names = {Requirement(text).name for text in wanted}
    imported = set()
    tops = ("protodl", "stages", "studies")
    for path in (path for top in tops for path in ROOT.glob(f"{top}/**/*.py")):
        text = path.read_text(encoding="utf-8")
        imported |= set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE))
    foreign = imported - set(sys.stdlib_module_names) - {"protodl", "stages", "studies"}
    assert {modules.get(name, name) for name in foreign} <= names


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        (
            "a package registry",
            r"py[p]i\.org|python[h]osted|download\.py[t]orch\.org|/sim[p]le/|conda\.a[n]y",
        ),
        ("an index option", r"--(extra-)?index-[u]rl|--find-[l]inks|--default-[i]ndex"),
        ("a path of one machine", r"(?<![\w.])/(home|Users|root|work|farm|opt)/[a-z]"),
    ],
)
def test_no_file_names(what: str, pattern: str) -> None:
    for path in project_files():
        found = re.search(pattern, path.read_text(encoding="utf-8", errors="replace"))
        assert not found, f"{path.relative_to(ROOT)} names {what}: {found and found.group()}"


def test_make_alone_prints_one_line_a_target() -> None:
    printed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = printed.splitlines()
    assert {line.split()[1] for line in lines} == TARGETS
    assert all(re.match(r"make [\w-]+ +\w", line) for line in lines)


def dry_make(folder: Path, *arguments: str) -> str:
    """What make would do in a folder with the Makefile."""
    inherited = {"CPU", "MAKEFLAGS", "MAKELEVEL", "MFLAGS"}
    return subprocess.run(
        ["make", "-n", *arguments],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name not in inherited},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    ("stamp", "arguments", "options"),
    [
        (None, [], []),
        (None, ["CPU=1"], ["cpu"]),
        (None, ["CPU=0"], []),
        (".installed", [], None),
        (".installed", ["CPU=0"], None),
        (".installed", ["CPU=1"], ["cpu", "reinstall"]),
        (".installed-cpu", [], None),
        (".installed-cpu", ["CPU=1"], None),
        (".installed-cpu", ["CPU=0"], ["reinstall"]),
    ],
)
def test_make_installs_where_the_other_torch_is_wanted(
    stamp: str | None, arguments: list[str], options: list[str] | None, tmp_path: Path
) -> None:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for path in [python] + ([tmp_path / ".venv" / stamp] if stamp else []):
        path.touch()
        os.utime(path, (4e9, 4e9))  # newer than what was copied
    commands = dry_make(tmp_path, *arguments, "sync")
    assert commands.endswith("protodl sync\n")
    install = "pip install" in commands
    found = {"cpu": "--torch-backend cpu", "reinstall": "--reinstall-package torch"}
    given = [name for name, option in found.items() if option in commands]
    assert (given if install else None) == options


def test_make_hands_on_what_it_is_given(tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    assert "protodl ui --port 5001\n" in dry_make(tmp_path, "ui", "PORT=5001")
    assert "protodl table --write README.md\n" in dry_make(tmp_path, "table")
    assert "protodl run mnist -j 2\n" in dry_make(tmp_path, "repro", "ROW=mnist", "JOBS=2")
    for study in ("ablation", "price", "long", "modern"):
        assert f"python -m studies.run {study} -j 2\n" in dry_make(tmp_path, study, "JOBS=2")
        made = dry_make(tmp_path, study, "JOBS=2", "ON=auto")
        assert f"python -m studies.run {study} -j 2 --on auto\n" in made


def test_hosted_ci_and_the_local_one_call_the_same_targets() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [
        step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step
    ]
    hosted = {target for step in steps for target in step.removeprefix("make ").split()}
    local = {
        target
        for line in (ROOT / ".ci/run").read_text(encoding="utf-8").splitlines()
        if line.startswith("make ")
        for target in line.split()[1:]
    }
    assert hosted == local == {"check", "test", "demo"}


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_dvc_reports_nothing_to_its_makers() -> None:
    import configparser

    config = configparser.ConfigParser()
    config.read_string(re.sub(r"^\s+", "", (ROOT / ".dvc/config").read_text(), flags=re.MULTILINE))
    assert config["core"]["analytics"] == config["core"]["check_update"] == "false"


def test_rows_are_looked_for_where_dvc_puts_them() -> None:
    from protodl.pipeline.run import ROW_STAGES, ROWS

    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert {
        name for name, stage in stages.items() if stage.get("foreach") == "${experiments}"
    } == set(ROW_STAGES)
    written = [*stages["train"]["do"]["outs"], *stages["evaluate"]["do"]["outs"]]
    paths = {path for entry in written for path in ([entry] if isinstance(entry, str) else entry)}
    assert {f"{ROWS}/${{key}}/training", f"{ROWS}/${{key}}/metrics.json"} <= paths
