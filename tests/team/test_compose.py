"""deploy/compose.yaml as it is written; tests/team/test_store.py starts what it says."""

import configparser
import re
from typing import Any

import pytest

from tests.team.parts import DEPLOY, SECRETS, compose
from tests.test_house import pins

TEXT = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SECRETS)
def test_it_refuses_to_start_without_a_secret(name: str) -> None:
    for nothing in ({}, {name: ""}):
        with pytest.raises(ValueError, match=f"{name}: set it in deploy/.env"):
            compose({**SECRETS, name: "x"} | {name: ""} | nothing)
    assert compose(SECRETS)


def test_the_example_names_all_that_can_be_set_and_holds_no_secret() -> None:
    example = (DEPLOY / ".env.example").read_text(encoding="utf-8")
    named = dict(re.findall(r"^(?:# )?([A-Z0-9_]+)=(.*)$", example, re.MULTILINE))
    assert set(named) == set(re.findall(r"\$\{(\w+)", TEXT))
    assert {name for name, value in named.items() if not value} == set(SECRETS)
    environments = [each["environment"] for each in compose(SECRETS).values()]
    secret = [name for each in environments for name in each if re.search("PASS|SECRET", name)]
    assert sorted(set(SECRETS.values())) == sorted(
        {each[name] for each in environments for name in secret if name in each}
    )


def test_only_the_server_is_reached_from_outside_and_on_this_machine_alone() -> None:
    services = compose(SECRETS)
    published = {name: each["ports"] for name, each in services.items() if "ports" in each}
    assert published == {"mlflow": ["${BIND:-127.0.0.1}:${PORT:-5000}:5000"]}


def test_what_lasts_has_a_volume_and_what_runs_a_health_check() -> None:
    services = compose(SECRETS)
    kept = {name: each["volumes"][0].split(":")[0] for name, each in services.items()
            if "volumes" in each}  # fmt: skip
    assert kept == {"db": "db", "s3": "s3"}
    assert (
        {name for name, each in services.items() if "healthcheck" in each}
        == {name for name, each in services.items() if each.get("restart")}
        == {"db", "s3", "mlflow"}
    )
    assert _waits_for(services["mlflow"]) == {
        "db": "service_healthy",
        "bucket": "service_completed_successfully",
    }


def _waits_for(service: dict[str, Any]) -> dict[str, str]:
    return {name: each["condition"] for name, each in service["depends_on"].items()}


def test_versions_and_addresses_stand_in_two_places_as_one() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    (mlflow,) = pins()["mlflow"]
    assert f"/mlflow:v{str(mlflow.specifier).removeprefix('==')}\n" in dockerfile
    accounts = configparser.ConfigParser()
    accounts.read(DEPLOY / "basic_auth.ini")
    command = compose(SECRETS)["mlflow"]["command"].split()
    store = command[command.index("--backend-store-uri") + 1]
    assert accounts["mlflow"]["database_uri"] == store
