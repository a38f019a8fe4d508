"""What runs say of images, as rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from core.common.blocks import own_names, spans
from core.inference.network import Network, network_of
from core.runs.members import refuse_different
from core.runs.trained import Run
from data.predict.inputs import Image, Reading, images
from data.predict.results import Row
from data.reading.decode import with_channels


class Asked:
    """What is asked of the runs.

    top: number of classes that a row names.  threshold: probability below which it names none.  reading: of the images.
    precision: see `network_of`. Raises UserError for runs that cannot answer together.
    """

    def __init__(
        self, runs: Sequence[Run], top: int, threshold: float, device: str, reading: Reading, precision: str | None
    ):
        first = runs[0]
        self.classes = list(first.record["data"]["classes"])
        refuse_different(runs)
        self.several, self.tasks = first.multi_label, first.tasks
        self.top, self.threshold = min(top, len(self.classes)), threshold
        self.ends = ["", *(f"_{rank}" for rank in range(2, self.top + 1))]  # of the names of columns
        self.reading, self.channels = reading, first.record["data"]["image_shape"][2]
        self.networks: list[Network] = [network_of(run, device, precision) for run in runs]

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        if self.tasks:
            each = (name for task, _ in self.tasks for name in (task, f"probability of {task}"))
            return ["path", *each, "error"]
        if self.several:
            return ["path", "labels", *(f"probability of {name}" for name in self.classes), "error"]
        return ["path", *(f"{name}{end}" for end in self.ends for name in ("class", "probability")), "error"]

    def rows(self, places: Sequence[str], done: Mapping[str, int]) -> Iterator[list[Row]]:
        """The rows of all images that are not done, in batches: while the networks answer for one, the next is decoded
        in a thread. The networks stay in this thread, which alone keeps freed memory for the next large tensors."""
        each = itertools.chain.from_iterable(images(places, self.reading, done))

        def batch() -> list[Image]:
            return list(itertools.islice(each, self.networks[0].chunk))

        with ThreadPoolExecutor(1, thread_name_prefix="read") as reader:
            ahead = reader.submit(batch)
            while some := ahead.result():
                ahead = reader.submit(batch)
                yield self._answered(some)

    def _answered(self, some: Sequence[Image]) -> list[Row]:
        readable = [image.pixels for image in some if image.pixels is not None]
        answers = iter(self._rows(self._probabilities(np.stack(readable))) if readable else ())
        return [
            {"path": image.path, "error": image.reason}
            if image.pixels is None
            else {"path": image.path} | next(answers)
            for image in some
        ]

    def _probabilities(self, pixels: np.ndarray) -> np.ndarray:
        """The mean probabilities over the runs, float32 [N, C]."""
        pixels = with_channels(pixels, self.channels)
        each = [network.task.probabilities(network.logits(pixels)).numpy() for network in self.networks]
        mean: np.ndarray = np.mean(each, axis=0)
        return mean

    def _rows(self, probabilities: np.ndarray) -> Iterator[Row]:
        """What the probabilities of each image, float32 [N, C], say."""
        rounded = np.round(probabilities.astype(float), 6)
        if self.tasks:
            for values in rounded:
                yield self._of_tasks(values)
            return
        if self.several:
            for values in rounded.tolist():
                each = dict(zip(self.classes, values, strict=True))
                said = [name for name, value in each.items() if value >= (self.threshold or 0.5)]
                yield {"labels": "|".join(said)} | {f"probability of {name}": value for name, value in each.items()}
            return
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top]
        for places, values in zip(order.tolist(), np.take_along_axis(rounded, order, axis=1).tolist(), strict=True):
            row: Row = {}
            for end, place, value in zip(self.ends, places, values, strict=True):
                row[f"class{end}"], row[f"probability{end}"] = self.classes[place], value
            if row["probability"] < self.threshold:
                row["class"] = ""
            yield row

    def _of_tasks(self, values: np.ndarray) -> Row:
        """The class of each task and its probability. values: probabilities of all classes, float [C]."""
        row: Row = {}
        for task, columns in spans(self.tasks):
            own, best = values[columns], int(values[columns].argmax())
            name = own_names(self.tasks, task, self.classes)[best] if own[best] >= self.threshold else ""
            row |= {task: name, f"probability of {task}": float(own[best])}
        return row
