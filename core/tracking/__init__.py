"""Mirrors of journals: MLflow, TensorBoard, W&B. The trainer uses core.tracking.api, which imports none of them.

    from core.tracking.api import Mirrors

    mirror = Mirrors(mlflow=True, also=("tensorboard",))
    mirror.follow(folder)       as soon as the run's folder exists
    complete = mirror.finish()  False: send the rest with `labbook sync`

A separate process for each tracker, core/tracking/process.py, sends the entries to a class that has the methods of
core/tracking/tracker.py; its progress is in mirror.json, or mirror.NAME.json, of each run.
"""
