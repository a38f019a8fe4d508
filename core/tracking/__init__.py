"""MLflow as a mirror of journals. The trainer uses core.tracking.api, which imports neither mlflow nor torch.

    from core.tracking.api import Mirror

    mirror = Mirror()
    mirror.follow(folder)       as soon as the run's folder exists
    complete = mirror.finish()  False: send the rest with `labbook sync`

A separate process, core/tracking/process.py, sends the entries; its progress is in mirror.json of each run.
"""
