"""MLflow shows what DVC computed: a run per row, a run per seed below it, models, a results view.

The only package that imports mlflow, and only when something is tracked. It observes: a failure to
record is a warning, never the end of a training, and `sync` adds later what is missing.
"""
