"""The stages of dvc.yaml, a short script each."""
