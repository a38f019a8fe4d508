"""Where a study is kept: a journal file of this machine, or a database that several machines share."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import re
import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import optuna
from optuna.storages import GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage

from core.common.errors import Failing, UserError
from core.declare.renamed import migrated_names
from core.record.journal import drop_torn_tail

FILE = "study.log"
HEARTBEAT, GRACE = 20, 90  # s between signs of life of a trial; s after which another machine takes it over
IDENTITY, TOKEN = "identity", "token"  # token: tells it from another study of the same name
Direction = Literal["minimize", "maximize"]
_FIRST_USE = re.compile(r"already exists|duplicate key|UniqueViolation|Duplicate entry")
_DRIVERS = {"postgresql": ("psycopg", "psycopg[binary]"), "mysql": ("pymysql", "pymysql"), "grpc": ("grpc", "grpcio")}


def open_storage(url: str | None, folder: Path) -> optuna.storages.BaseStorage:
    """Raises UserError where it cannot be reached or written."""
    if url is None:
        path = folder / FILE
        drop_torn_tail(path)  # Optuna reads no file that ends so
        _check(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_KernelLock(path)))
    if url.partition("?")[0].count("@") > 1:  # the driver would take a part of the password for the host, and tell it
        raise UserError([f"--storage {_hidden(url)}: an @ in the password should be written %40"])
    for attempt in range(5):
        try:
            return _database(url)
        except Exception as error:
            if _FIRST_USE.search(str(error)) and attempt < 4:  # two machines make the tables at once: one fails
                time.sleep(0.5 * (attempt + 1))
                continue
            raise UserError([f"--storage {_hidden(url)}: cannot be used: {_reason(error)}{_advice(url)}"]) from None
    raise AssertionError


def _check(path: Path) -> None:
    """Raises UserError for a line that Optuna would stumble over, sooner or later."""
    with suppress(FileNotFoundError), path.open() as lines:
        for number, line in enumerate(lines, 1):
            try:
                json.loads(line)["op_code"]
            except (ValueError, TypeError, KeyError):
                advice = "mend it, restore the file, or take another name with --study"
                raise UserError([f"{path}, line {number}: damaged; {advice}"]) from None


def _database(url: str) -> optuna.storages.BaseStorage:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if proxy := re.fullmatch(r"grpc://([^:/]+):(\d+)/?", url):
            storage = GrpcStorageProxy(host=proxy[1], port=int(proxy[2]))
            storage.wait_server_ready(timeout=10)
            return storage
        return RDBStorage(
            re.sub(r"^postgresql://", "postgresql+psycopg://", url),
            engine_kwargs={"pool_pre_ping": True},  # a server that was restarted between two calls goes unnoticed
            heartbeat_interval=HEARTBEAT,
            grace_period=GRACE,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )


def open_study(
    storage: optuna.storages.BaseStorage,
    name: str,
    new: bool,
    directions: list[Direction],
    identity: Mapping[str, str],
    begin: Callable[[optuna.Study], None],
) -> optuna.Study:
    """The latest study of this name, or a fresh one. identity: what must be the same as when it began, in words.
    begin: done once to a fresh one.

    Studies of one name are numbered from the second on: digits_cnn, digits_cnn.2. Raises UserError with the difference.
    """
    pattern = re.compile(rf"{re.escape(name)}(\.\d+)?")
    latest = max(filter(pattern.fullmatch, optuna.get_all_study_names(storage)), key=_number, default=None)
    if latest is None or new:
        latest = name if latest is None else f"{name}.{_number(latest) + 1}"
        with suppress(optuna.exceptions.DuplicatedStudyError):  # another machine was quicker
            study = optuna.create_study(study_name=latest, storage=storage, directions=directions)
            study.set_user_attr(IDENTITY, dict(identity))
            begin(study)
            study.set_user_attr(TOKEN, secrets.token_hex(8))
            return study
    study = optuna.load_study(study_name=latest, storage=storage)
    end = time.monotonic() + 20
    while TOKEN not in study.user_attrs:
        if time.monotonic() > end:
            raise UserError([f"the study {latest} was begun by a process that died at once; --new begins a fresh one"])
        time.sleep(0.2)
    before = migrated_names(study.user_attrs.get(IDENTITY, {}))
    if lines := [f"{key}: {before.get(key, 'not there')} then, {identity.get(key, 'not there')} now"
                 for key in sorted({*before, *identity}) if before.get(key) != identity.get(key)]:  # fmt: skip
        raise UserError(["\n    ".join([f"the study {latest} began otherwise; --new begins a fresh one", *lines])])
    return study


def attached(storage: optuna.storages.BaseStorage, study: optuna.Study, number: int) -> optuna.Trial:
    """A trial that another process began, to resume it here."""
    return optuna.Trial(study, _trial_id(storage, study, number))


def has_heartbeats(storage: optuna.storages.BaseStorage) -> bool:
    """Whether machines can see of one another that they are alive: of a file nobody asks, a proxy does not tell."""
    return isinstance(storage, RDBStorage)


def beat(storage: optuna.storages.BaseStorage, study: optuna.Study, numbers: Iterable[int]) -> None:
    """A sign of life for the trials of these numbers; what has given none for GRACE s is queued to be done again."""
    if isinstance(storage, RDBStorage):
        for number in numbers:
            storage.record_heartbeat(_trial_id(storage, study, number))
        optuna.storages.fail_stale_trials(study)


def _trial_id(storage: optuna.storages.BaseStorage, study: optuna.Study, number: int) -> int:
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study.study_name), number)


@contextmanager
def needed(url: str | None) -> Iterator[None]:
    """Within, a database that can no longer be reached raises Failing."""
    try:
        yield
    except Exception as error:
        if url is None or not _is_outage(error):
            raise
        cause = error.__cause__ or error
        raise Failing(
            f"--storage {_hidden(url)} was lost ({_reason(cause)}); the same command goes on with it"
        ) from None


def _is_outage(error: Exception) -> bool:
    return isinstance(error, optuna.exceptions.StorageInternalError) or type(error).__module__.startswith("grpc")


class _KernelLock(JournalFileOpenLock):
    """Given back by the kernel when its holder dies: Optuna's own files would make the next writer wait for 30 s.

    Nothing is inherited but the type that JournalFileBackend takes.
    """

    def __init__(self, path: Path):
        self.path = path.with_suffix(".lock")
        self.held: int | None = None

    def acquire(self) -> bool:
        self.held = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self.held, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        if self.held is not None:
            os.close(self.held)
            self.held = None


def _number(name: str) -> int:
    tail = name.rpartition(".")[2]
    return int(tail) if "." in name and tail.isdecimal() else 1


def _hidden(url: str) -> str:
    """Without its password."""
    return re.sub(r"(://[^:/@]*):.*@", r"\1:***@", url)


def _reason(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _advice(url: str) -> str:
    module, package = _DRIVERS.get(url.partition(":")[0].partition("+")[0], (None, None))
    if module is None:
        return "; it should begin with postgresql://, mysql+pymysql:// or grpc://"
    return "" if importlib.util.find_spec(module) else f'; its driver is missing: pip install "{package}"'
