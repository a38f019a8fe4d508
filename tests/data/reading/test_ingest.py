"""Threads of decoding: for images that keep a CPU busy or come from a slow disk, not for small ones."""

import threading
import time

import pytest

from data.reading.ingest import in_threads


def busy(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize(
    ("spend", "seconds", "threads"),
    [(time.sleep, 1e-3, False), (busy, 1e-3, True), (time.sleep, 2e-2, True)],
    ids=["other work of the machine", "large images", "slow disk"],
)
def test_images_are_judged_by_the_time_of_the_cpu(spend, seconds, threads):
    def job(batch):
        spend(seconds * len(batch))
        return batch, threading.current_thread() is threading.main_thread()

    done = list(in_threads(job, [[0, 1], [2, 3], [4, 5]]))
    assert [batch for batch, _ in done] == [[0, 1], [2, 3], [4, 5]]
    assert [alone for _, alone in done] == [True, True, not threads]
