"""Small tar shards, made by the tests."""

import io
import tarfile

from tests.support.samples import encoded, noise


def shard(path, files):
    """A tar of (name, content)s, in this order."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def picture(number):
    return encoded(noise(number, 20, 26))


def samples(first, count, classes=("cat", "dog")):
    for number in range(first, first + count):
        yield f"{number:04}.png", picture(number)
        yield f"{number:04}.cls", classes[number % len(classes)].encode()
