"""What a study measured of one of its rows."""

from protodl.core.training_log import Means


class StudyMetrics(Means):
    """A row's metrics.json in a study: the means, and what they are means of."""

    seeds: list[dict[str, float]]  # in the order of params.yaml
