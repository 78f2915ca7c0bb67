"""MLflow shows what DVC computed: a run per row, a run per seed below it, models, a results view.

The only package that imports mlflow, and only when something is tracked. It observes: a training
never waits for it, a failure to record is a line, and `sync` adds later what is missing.
"""
