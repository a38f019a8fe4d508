"""MLflow as a mirror of journals: what the trainer uses. It imports neither mlflow nor torch and waits for nothing.

    from core.tracking.api import Mirror

    mirror = Mirror()
    mirror.follow(folder)       as soon as the run's folder exists
    complete = mirror.finish()  False: `labbook sync` will send the rest

The work is done by a process of its own, core/tracking/process.py; what it achieved stands in the run's mirror.json.
"""
