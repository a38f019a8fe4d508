"""The storage of a study: a journal file on this machine, or a database that several machines share."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import platform
import re
import secrets
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import optuna
import psutil
from optuna.storages import GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalStorage
from optuna.trial import FrozenTrial

from core.common.errors import Failing, UserError
from core.common.text import public, unquoted
from core.declare.renamed import migrated_names
from core.record.journal import drop_torn_tail

FILE = "study.log"
HEARTBEAT, GRACE = 20, 90  # s between heartbeats of a trial; s without one after which another machine retries it
IDENTITY, TOKEN = "identity", "token"  # token: distinguishes it from another study of the same name
OWNER = "owner"  # attribute of a trial: the process that runs it
Direction = Literal["minimize", "maximize"]
_FIRST_USE = re.compile(r"already exists|duplicate key|UniqueViolation|Duplicate entry")
_DRIVERS = {"postgresql": ("psycopg", "psycopg[binary]"), "mysql": ("pymysql", "pymysql"), "grpc": ("grpc", "grpcio")}


def open_storage(url: str | None, folder: Path) -> optuna.storages.BaseStorage:
    """Returns the storage at a URL, or a journal file in `folder`. Raises UserError if it cannot be used."""
    if url is None:
        path = folder / FILE
        drop_torn_tail(path)  # Optuna cannot read a file with an incomplete last line
        _check(path)
        return JournalStorage(JournalFileBackend(str(path), lock_obj=_KernelLock(path)))
    if char := unquoted(url):
        raise UserError(
            [f"--storage {public(url, whole=True)}: {char} in the password should be written %{ord(char):X}"]
        )
    for attempt in range(5):
        try:
            return _database(url)
        except Exception as error:
            if (
                _FIRST_USE.search(str(error)) and attempt < 4
            ):  # two machines create the tables at the same time: one fails
                time.sleep(0.5 * (attempt + 1))
                continue
            raise UserError(
                [f"--storage {public(url, whole=True)}: cannot be used: {_reason(error, url)}{_advice(url)}"]
            ) from None
    raise AssertionError


def _check(path: Path) -> None:
    """Raises UserError for a line that Optuna cannot read."""
    with suppress(FileNotFoundError), path.open() as lines:
        for number, line in enumerate(lines, 1):
            try:
                json.loads(line)["op_code"]
            except (ValueError, TypeError, KeyError):
                advice = "repair the line, restore the file, or use another study with --study NAME"
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
            engine_kwargs={"pool_pre_ping": True},  # reconnects after the server was restarted between two calls
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
    defaults: Mapping[str, str],
    begin: Callable[[optuna.Study], None],
) -> optuna.Study:
    """Load the latest study of this name, or create one.

    identity: settings that must be the same as when the study was created.  defaults: values of settings that were not
    there yet.
    begin: called once with a new study.
    Studies of one name are numbered from the second on: digits_cnn, digits_cnn.2. Raises UserError if the settings
    differ from those of the existing study.
    """
    pattern = re.compile(rf"{re.escape(name)}(\.\d+)?")
    latest = max(filter(pattern.fullmatch, optuna.get_all_study_names(storage)), key=_number, default=None)
    if latest is None or new:
        latest = name if latest is None else f"{name}.{_number(latest) + 1}"
        with suppress(optuna.exceptions.DuplicatedStudyError):  # another machine has created it meanwhile
            study = optuna.create_study(study_name=latest, storage=storage, directions=directions)
            study.set_user_attr(IDENTITY, dict(identity))
            begin(study)
            study.set_user_attr(TOKEN, secrets.token_hex(8))
            return study
    study = optuna.load_study(study_name=latest, storage=storage)
    end = time.monotonic() + 20
    while TOKEN not in study.user_attrs:
        if time.monotonic() > end:
            raise UserError([f"the study {latest} is incomplete: its first process died; --new creates a new study"])
        time.sleep(0.2)
    known = {key: defaults.get(key, "None") for key in identity}
    before = known | migrated_names(study.user_attrs.get(IDENTITY, {}))
    if lines := [f"{key}: {before[key]} then, {identity.get(key, 'none')} now"
                 for key in sorted(before) if before[key] != identity.get(key, "None")]:  # fmt: skip
        raise UserError(
            ["\n    ".join([f"the study {latest} has different settings; --new creates a new study", *lines])]
        )
    return study


def attached(storage: optuna.storages.BaseStorage, study: optuna.Study, number: int) -> optuna.Trial:
    """Returns a trial that another process started, to resume it here."""
    return optuna.Trial(study, _trial_id(storage, study, number))


def added(storage: optuna.storages.BaseStorage, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> optuna.Trial:
    """Adds a running trial to a study and returns it."""
    study_id = storage.get_study_id_from_name(study.study_name)
    return optuna.Trial(study, storage.create_new_trial(study_id, template_trial=trial))


def present(storage: optuna.storages.BaseStorage, study: optuna.Study, number: int) -> FrozenTrial:
    """Returns the present state of a trial, without those of all others, which a database would read again."""
    return storage.get_trial(_trial_id(storage, study, number))


def owner() -> str:
    """An identifier of this process that is unique among machines."""
    return f"{platform.node()}:{os.getpid()}"


def is_orphan(trial: FrozenTrial, shared: bool) -> bool:
    """Whether the owner of a running trial is dead: if it was on this machine, or in a local file, which is locked.
    shared: whether machines share the storage."""
    host, _, pid = str(trial.user_attrs.get(OWNER, "")).rpartition(":")
    return not shared or (host == platform.node() and not psutil.pid_exists(int(pid)))


def has_heartbeats(storage: optuna.storages.BaseStorage) -> bool:
    """Whether the storage supports heartbeats: databases do, journal files and gRPC proxies do not."""
    return isinstance(storage, RDBStorage)


def beat(storage: optuna.storages.BaseStorage, study: optuna.Study, numbers: Iterable[int]) -> None:
    """Record a heartbeat for the trials of these numbers. Trials without one for GRACE s are enqueued again."""
    if isinstance(storage, RDBStorage):
        for number in numbers:
            storage.record_heartbeat(_trial_id(storage, study, number))
        optuna.storages.fail_stale_trials(study)


def _trial_id(storage: optuna.storages.BaseStorage, study: optuna.Study, number: int) -> int:
    return storage.get_trial_id_from_study_id_trial_number(storage.get_study_id_from_name(study.study_name), number)


@contextmanager
def needed(url: str | None) -> Iterator[None]:
    """Context manager that raises Failing if the database can no longer be reached."""
    try:
        yield
    except Exception as error:
        if url is None or not _is_outage(error):
            raise
        cause = error.__cause__ or error
        raise Failing(
            f"--storage {public(url, whole=True)} is unreachable ({_reason(cause, url)}); "
            "to continue, run the same command"
        ) from None


def _is_outage(error: Exception) -> bool:
    return isinstance(error, optuna.exceptions.StorageInternalError) or type(error).__module__.startswith("grpc")


class _KernelLock(JournalFileOpenLock):
    """A lock that the kernel releases when its holder dies. With Optuna's lock files, the next writer waits 30 s.

    The base class only provides the type that JournalFileBackend accepts.
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


def _reason(error: BaseException, url: str) -> str:
    text = public(str(error).replace(url, public(url, whole=True))).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__


def _advice(url: str) -> str:
    module, package = _DRIVERS.get(url.partition(":")[0].partition("+")[0], (None, None))
    if module is None:
        return "; the URL should begin with postgresql://, mysql+pymysql:// or grpc://"
    return "" if importlib.util.find_spec(module) else f'; its driver is not installed: pip install "{package}"'
