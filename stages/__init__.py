"""The stages of dvc.yaml, a short script each."""

import gc

# torch and MLflow bring half a million objects that stay; looking for garbage among them while
# they are imported would take a fifth of the time that a stage spends beside its own work.
gc.set_threshold(200_000, 10, 10)
