"""Fixtures for all tests."""

pytest_plugins = ["tests.mlflow_fixtures"]
