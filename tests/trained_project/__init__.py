"""The former name of tests/factories.py; not to be used by new tests."""

from tests.factories import *  # noqa: F403
