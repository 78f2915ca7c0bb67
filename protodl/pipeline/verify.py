"""`protodl verify`: a row's files hashed and its numbers computed again, beside the records."""

import json
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from protodl.core.config import Params, load_params
from protodl.core.errors import ProtodlError
from protodl.core.files import CheckpointError
from protodl.core.machine import environment_facts, prepare_machine
from protodl.core.training_log import ResultsError, SeedLog
from protodl.data.datasets import info_of, load_split, load_training
from protodl.evaluation.examiner import Examiner, summarise
from protodl.explanation.loading import SHIPPED, Project
from protodl.explanation.portable import load_portable
from protodl.network.cases import measure_case_base
from protodl.network.checkpoint import load_network
from protodl.network.judge import Judge, load_judge
from protodl.network.network import PrototypeNetwork
from protodl.pipeline.lock import dvc_hash, listing, locked_files, locked_hashes
from protodl.pipeline.run import MODELS, ROWS
from protodl.report.results import RowFiles, read_row, result_row
from protodl.report.verification import Comparison, Pairs, Verification
from protodl.training.row import Row
from protodl.training.trainer import Hooks

MACHINE = ("processor", "device", "threads", "precision", "memory_format", "torch")
JUDGED = "independent_agreement independent_reconstruction_agreement case_agreement"
BY_JUDGE = {*JUDGED.split(), "judged_class", "case_judged_class"}
CURVES = {"step", "learning_rate", "train", "validation", "selected"}  # not the seconds


@dataclass(frozen=True)
class Recorded:
    """A row as the pipeline left it in a project's folder."""

    root: Path
    row: str
    params: Params
    files: RowFiles

    @property
    def dataset(self) -> str:
        """Name of the row's data set."""
        return self.params.experiment(self.row).dataset

    @property
    def teacher(self) -> Path:
        """That of the data set."""
        return self.root / MODELS / "teachers" / f"{self.dataset}.pt"

    @property
    def judge(self) -> Path:
        """The weights of the data set's independent classifier."""
        return self.root / MODELS / "judges" / f"{self.dataset}.pt"

    def data(self, split: str) -> Path:
        """The file of a split."""
        return self.root / "data" / self.dataset / f"{split}.pt"

    def params_of(self, log: SeedLog) -> Params:
        """Those of the project, with threads and arithmetic as the seed was trained with."""
        facts = log.environment
        names = [name for name in ("precision", "memory_format") if name in facts]
        recorded: dict[str, Any] = {name: facts[name].removesuffix("_format") for name in names}
        recorded["threads"] = int(facts.get("threads", 0))
        training = self.params.training.model_copy(update=recorded)
        return self.params.model_copy(update={"training": training})


def verify(root: Path, row: str, seed: int | None = None, retrain: bool = False) -> Verification:
    """Compare a row with dvc.lock and results/.

    Args:
        root: the project.
        row: key of experiments in params.yaml.
        seed: None: all of params.yaml.
        retrain: train in a temporary folder first; nothing of the project is changed either way.

    Raises:
        ProtodlError: it cannot be compared: records, data or weights are missing.
    """
    params = load_params(root / "params.yaml")
    Project(root, params).seed(row, seed)  # raises where there is no such row or seed
    files, code, absent = _files(root, row, ("train", "evaluate") if retrain else ("evaluate",))
    found = Verification(row, retrain, [files], code, [f"{name} is not here" for name in absent])
    try:
        recorded = Recorded(root, row, params, read_row(row, params, root / ROWS))
        return _measured(found, recorded, seed)
    except ProtodlError as error:
        if not files.differing:
            raise
        return replace(found, left_out=[*found.left_out, str(error)])


def _measured(found: Verification, recorded: Recorded, seed: int | None) -> Verification:
    """The same with the numbers, of networks trained again where that is asked for."""
    logs = [log for log in recorded.files.logs if seed in (None, log.seed)]
    numbers: list[Comparison] = []
    with tempfile.TemporaryDirectory() as temporary:
        models = recorded.root / MODELS / recorded.row
        if found.retrained:
            models = Path(temporary)
            curves = [_train(recorded, log, models) for log in logs]
            numbers = [_weights(recorded, models, whole=seed is None), *curves]
        compared, reasons = _measure(recorded, logs, models)
    return replace(
        found,
        records=[*found.records, _summed_up(recorded)],
        left_out=[*found.left_out, *reasons],
        seeds=list(compared),
        numbers=[*numbers, *compared.values()],
        machine=_machine(recorded, logs),
        accuracy_std=recorded.files.metrics.std["test_accuracy"],
    )


# --- files and machine --------------------------------------------------------------------------


def _files(root: Path, row: str, stages: Sequence[str]) -> tuple[Comparison, Pairs, list[str]]:
    """What the stages read and wrote, beside dvc.lock; the code apart; and what is not here."""
    locked: dict[str, str] = {}
    for stage in stages:
        locked |= locked_hashes(root, f"{stage}@{row}")
    absent = [path for path in locked if not (root / path).exists()]
    present = [path for path in locked if path not in absent]
    differing: dict[str, tuple[Any, Any]] = {}
    for path in present:
        found = dvc_hash(root / path)
        if found != locked[path]:
            differing |= _inside(root, path, locked[path]) or {path: (locked[path], found)}
    code = {path: pair for path, pair in differing.items() if path.endswith(".py")}
    others = {path: pair for path, pair in differing.items() if path not in code}
    count = sum(not path.endswith(".py") for path in present)
    return Comparison("files and folders, with dvc.lock", count, others), code, absent


def _inside(root: Path, folder: str, locked: str) -> dict[str, tuple[Any, Any]]:
    """The files by which a folder differs from the one in dvc.lock; empty where not known."""
    before = locked_files(root, folder, locked) if locked.endswith(".dir") else {}
    now = listing(root / folder) if before else {}
    return {
        f"{folder}/{name}": (before.get(name), now.get(name))
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    }


def _machine(recorded: Recorded, logs: Sequence[SeedLog]) -> dict[str, tuple[Any, Any]]:
    """Facts in which this machine is not the one of a training."""
    differing: dict[str, tuple[Any, Any]] = {}
    for log in logs:
        here = environment_facts(prepare_machine(recorded.params_of(log).training))
        for name in MACHINE:
            then, now = log.environment.get(name, "unknown"), here[name]
            # Of a processor the kind counts, not how many cores may be used.
            if then.partition(", ")[0] != now.partition(", ")[0]:
                differing.setdefault(name, (then, now))
    return differing


# --- numbers ------------------------------------------------------------------------------------


def _compare(what: str, recorded: Any, found: Any, left_out: Collection[str] = ()) -> Comparison:
    """Two nested values, number by number; what has a name in `left_out` is not compared."""
    before, now = dict(_leaves(recorded)), dict(_leaves(found))
    names = [name for name in {**before, **now} if not {*name.split(".")} & {*left_out}]
    pairs = {name: (before.get(name), now.get(name)) for name in names}
    differing = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
    return Comparison(what, len(names), differing)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list | tuple):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(each, f"{name}.{key}" if name else str(key))
    else:
        yield name, value


def _measure(
    recorded: Recorded, logs: Sequence[SeedLog], models: Path
) -> tuple[dict[int, Comparison], list[str]]:
    """The numbers of each seed, measured again; and what was not, and why.

    Raises:
        CheckpointError: no seed has weights here.
        DatasetError: the data is not here.
    """
    examiner = _examiner(recorded, logs[0])
    left_out = set() if recorded.judge.is_file() else BY_JUDGE
    compared, reasons = {}, []
    for log in logs:
        try:
            network, before, without = _networks(recorded, log, models)
        except CheckpointError as error:
            reasons.append(str(error))
            continue
        case_base = measure_case_base(network, examiner.train, examiner.validation)
        found = examiner.evaluate_seed(log, network, case_base, before).model_dump()
        kept = recorded.files.evaluations[recorded.files.logs.index(log)].model_dump()
        what = f"seed {log.seed}: numbers{', by the shipped weights' if without else ''}"
        compared[log.seed] = _compare(what, kept, found, left_out | without)
    if not compared:
        raise CheckpointError(reasons[0])
    return compared, reasons


def _examiner(recorded: Recorded, log: SeedLog) -> Examiner:
    settings = recorded.params_of(log).training
    train, validation = load_training(recorded.data("train"), settings)
    judge = recorded.judge
    # Without it an untrained one stands in, and what it says is not compared.
    untrained = Judge(info_of(recorded.dataset, train)).eval()
    return Examiner(
        train,
        validation,
        load_split(recorded.data("test")),
        load_judge(judge) if judge.is_file() else untrained,
        recorded.params.experiment(recorded.row).loss,
        prepare_machine(settings).device,
    )


def _networks(
    recorded: Recorded, log: SeedLog, models: Path
) -> tuple[PrototypeNetwork, PrototypeNetwork | None, set[str]]:
    """A seed's network, the one before its projection, and the part of the record that lacks it."""
    path, shipped = models / f"seed-{log.seed}.pt", SHIPPED / f"{recorded.row}.safetensors"
    if not path.is_file() and shipped.is_file():
        model, measured = load_portable(shipped)
        if measured["fingerprint"] == log.fingerprint:  # of this very training
            return model.network, None, {"unprojected"}
    network = load_network(path)
    projected = network.config.project
    before = load_network(path.with_stem(f"{path.stem}-unprojected")) if projected else None
    return network, before, set()


def _summed_up(recorded: Recorded) -> Comparison:
    """metrics.json and the row's part of results.json, summed up again from the seeds' records."""
    path = recorded.root / "results" / "results.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
        kept = {each["row"]: each for each in rows}
    except (ValueError, TypeError, KeyError) as error:
        raise ResultsError(f"{path}: cannot be read ({error}); run `dvc repro report`") from None
    before = {"metrics.json": recorded.files.metrics.model_dump()}
    now = {"metrics.json": summarise(recorded.files.evaluations).model_dump()}
    if recorded.row in kept:  # not so where one row alone was run
        before["results.json"] = kept[recorded.row]
        now["results.json"] = result_row(recorded.row, recorded.params, recorded.files).record()
    return _compare("metrics.json and results.json, from the seeds' numbers", before, now)


# --- training again -----------------------------------------------------------------------------


def _train(recorded: Recorded, log: SeedLog, models: Path) -> Comparison:
    """Train a seed again, its networks into `models`; compares its learning curves."""
    words = f"training seed {log.seed} of {log.row}; it took {log.train_seconds / 60:.1f} min then"
    print(words, file=sys.stderr, flush=True)
    files = recorded.data("train"), recorded.teacher
    row = Row.load(log.row, recorded.params_of(log), *files, ())
    with tempfile.TemporaryDirectory() as store:
        result = row.fit(log.seed, Path(store), Hooks())
        for name, ending in (("network.pt", ""), ("unprojected.pt", "-unprojected")):
            if (trained := Path(store, name)).exists():
                shutil.copyfile(trained, models / f"seed-{log.seed}{ending}.pt")
    kept, found = (
        {f"epoch {each.epoch}": each.model_dump(include=CURVES) for each in history}
        for history in (log.history, result.history)
    )
    return _compare(f"seed {log.seed}: learning curves", kept, found)


def _weights(recorded: Recorded, models: Path, whole: bool) -> Comparison:
    """The files of the networks trained again, by name where those of dvc.lock are known here."""
    path = f"{MODELS}/{recorded.row}"
    locked = locked_hashes(recorded.root, f"train@{recorded.row}")[path]
    found, kept = listing(models), locked_files(recorded.root, path, locked)
    if not kept:  # then only that of all seeds can be compared
        kept, found = ({path: locked}, {path: dvc_hash(models)}) if whole else ({}, {})
    return _compare("weights", {name: kept.get(name) for name in found}, found)
