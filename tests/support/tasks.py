"""Tasks for engines: functions that a worker process of any engine can import."""

import os
import signal
import time


def squared(number):
    return number * number


def refused(number):
    raise ValueError(f"{number} is refused")


def dies_once(task):
    """Kill this worker the first time that the task (number, folder) is run, and return its number the second time."""
    number, folder = task
    mark = folder / str(number)
    if number % 4 == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def dies(number):
    os.kill(os.getpid(), signal.SIGKILL)


def slowly(task):
    """(number, folder, seconds): its number, after so many seconds, with a mark that it has begun."""
    number, folder, seconds = task
    (folder / f"{number}.{os.getpid()}").touch()
    time.sleep(seconds)
    return number
