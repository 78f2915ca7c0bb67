"""Every number that is shown of a row: its key in metrics.json, title, meaning, format and place.

Adding a measure takes a function whose value the evaluate stage writes to metrics.json (see
`protodl.evaluation.quality`) and one entry here: tables, results.json, model cards, the HTML
report, MLflow's view and the studies read this registry.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Unit = Literal["%", "min", "count", "ratio"]
Place = Literal["accuracy", "certainty", "explanations", "training", "card", "study"]
Summary = Literal["mean", "std", "min"]

SCALE: Mapping[Unit, float] = {"%": 100, "min": 1 / 60, "count": 1, "ratio": 1}
FORMS: Mapping[Unit, str] = {"%": ".0f", "min": ".1f", "count": ".3g", "ratio": ".2f"}
# Those of results.json.
TABLES: tuple[Place, ...] = ("accuracy", "certainty", "explanations", "training")


@dataclass(frozen=True)
class Measure:
    """One number of a network; a share is stored as 0 to 1 and shown in %, seconds in minutes."""

    name: str  # key in metrics.json
    meaning: str  # the definition, one sentence without its full stop
    place: Place  # a table of RESULTS.md, or else only the model card or a study's page
    title: str = ""  # the words of the name, unless it is given
    unit: Unit = "%"
    form: str = ""  # in tables, after scaling; that of the unit, unless it is given
    over_seeds: tuple[Summary, ...] = ("mean",)  # the first is shown; all are in results.json
    of_prototypes: bool = False  # a count that is shown as "17 of 50"
    optional: bool = False  # evaluations made before it was added lack it; others are refused then

    def __post_init__(self) -> None:
        """Fill in title and form."""
        object.__setattr__(self, "title", self.title or self.name.replace("_", " "))
        object.__setattr__(self, "form", self.form or FORMS[self.unit])

    @property
    def heading(self) -> str:
        """The title as the head of a column: `coverage`, `decode agreement (%)`."""
        return f"{self.title} ({self.unit})" if self.unit in ("%", "min") else self.title

    @property
    def of_worst_seed(self) -> bool:
        """Whether the lowest of all seeds is shown instead of their mean."""
        return self.over_seeds[0] == "min"

    def text(self, value: float, form: str | None = None) -> str:
        """A value as it is shown, without its unit."""
        return format(SCALE[self.unit] * value, form or self.form)


_ALL = (  # in the order of results.json
    Measure(
        "test_accuracy",
        "test images that are classified correctly",
        "accuracy",
        form=".2f",
        over_seeds=("mean", "std"),
    ),
    Measure(
        "validation_accuracy",
        "validation images that are classified correctly; it chose the epoch",
        "accuracy",
        form=".2f",
    ),
    Measure(
        "calibration_error",
        "gap between the predicted class's probability and the share of right predictions, mean "
        "over 15 bins of test images",
        "certainty",
        form=".2f",
        optional=True,
    ),
    Measure(
        "decode_agreement",
        "prototypes whose decoded picture the network puts into the prototype's class",
        "explanations",
    ),
    Measure(
        "cycle_identity",
        "prototypes whose decoded picture, encoded again, is nearest to that same prototype",
        "explanations",
    ),
    Measure(
        "reconstruction_agreement",
        "validation images that get the same prediction as their reconstruction",
        "explanations",
    ),
    Measure(
        "independent_agreement",
        "prototypes whose decoded picture an independent classifier, which never saw a "
        "prototype or a reconstruction, puts into the prototype's class",
        "explanations",
    ),
    Measure(
        "independent_reconstruction_agreement",
        "validation images that the independent classifier puts into the same class as their "
        "reconstruction",
        "explanations",
        title="reconstruction agreement (independent)",
    ),
    Measure(
        "case_agreement",
        "prototypes whose nearest training case has the prototype's class, by its label and by "
        "the independent classifier",
        "explanations",
    ),
    Measure(
        "purity25",
        "of a prototype's 25 nearest training cases, those that have its class",
        "explanations",
        title="purity@25",
    ),
    Measure(
        "coverage",
        "classes that have at least one prototype, in the worst seed",
        "explanations",
        unit="count",
        over_seeds=("min",),
    ),
    Measure(
        "distinct_prototypes",
        "prototypes that look different: those of a class count as one if their pictures differ "
        "at most half as much as two classes' usually do",
        "explanations",
        unit="count",
        of_prototypes=True,
        optional=True,
    ),
    Measure(
        "train_seconds",
        "time that the training of one seed took",
        "training",
        title="training of one seed",
        unit="min",
    ),
    Measure(
        "duplicates",
        "pairs of prototypes of one class that nearly coincide",
        "card",
        unit="count",
    ),
    Measure(
        "keep_3_accuracy",
        "validation accuracy when only the three prototypes count that contribute most to the "
        "class that all together predict",
        "card",
        title="accuracy of three prototypes",
        form=".2f",
    ),
    Measure(
        "keep_1_accuracy",
        "validation accuracy when only the prototype counts that contributes most to the class "
        "that all together predict",
        "study",
        title="accuracy of one prototype",
        form=".2f",
    ),
    Measure(
        "manifold_ratio",
        "distance from a prototype to its nearest training case, divided by the median distance "
        "from a training case to its nearest one",
        "study",
        title="on-manifold ratio",
        unit="ratio",
    ),
    Measure(
        "plain_accuracy",
        "validation images that the same encoder classifies correctly without prototypes and "
        "decoder, trained as long",
        "study",
        title="plain classifier",
        form=".2f",
    ),
    Measure(
        "independent_accuracy",
        "validation images that the independent classifier puts into their class",
        "study",
        title="independent classifier",
        form=".1f",
    ),
    Measure(
        "exchange_network",
        "of the pictures that prototypes have in the appearance of another class's, those that the "
        "network puts into the class of the part that is compared",
        "study",
        title="exchanged: network, class of the code",
    ),
    Measure(
        "exchange_judge",
        "of the same pictures, those that the independent classifier puts there",
        "study",
        title="exchanged: independent, class of the code",
    ),
    Measure(
        "exchange_appearance",
        "of the same pictures, those that it puts into the class of the appearance",
        "study",
        title="exchanged: independent, class of the appearance",
    ),
    Measure(
        "removal_share",
        "of the predicted class's lead over the runner-up, as far as contributions make it, what "
        "goes with the prototype that contributes most; median over the validation images",
        "study",
        title="lead that goes with the named prototype",
    ),
    Measure(
        "removal_changes",
        "validation images that are predicted otherwise without that prototype",
        "study",
        title="predictions that change without it",
    ),
    Measure(
        "deletion",
        "the predicted class's probability, mean over 1 to all prototypes taken away, those that "
        "contribute most first",
        "study",
    ),
    Measure(
        "deletion_random",
        "the same in random order, mean of five",
        "study",
        title="deletion at random",
    ),
    Measure(
        "insertion",
        "the predicted class's probability, mean over 1 to all prototypes left, those that "
        "contribute most first",
        "study",
    ),
    Measure(
        "insertion_random",
        "the same in random order, mean of five",
        "study",
        title="insertion at random",
    ),
)


MEASURES = {measure.name: measure for measure in _ALL}


def measures(*places: Place) -> list[Measure]:
    """The measures that are shown in one of these places, in the registry's order."""
    return [measure for measure in MEASURES.values() if measure.place in places]


def select(values: Mapping[str, float], ending: str = "") -> dict[str, float]:
    """Of the numbers `<name><ending>` those of the registry, by name.

    Raises:
        KeyError: a measure of the tables is missing; the optional and the others may be.
    """
    return {
        name: values[name + ending]
        for name, measure in MEASURES.items()
        if name + ending in values or (measure.place in TABLES and not measure.optional)
    }
