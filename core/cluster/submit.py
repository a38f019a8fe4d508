"""Submit a launch through submitit: its executor, the folder of the job, its messages, and waiting for its end."""

from __future__ import annotations

import json
import math
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.cluster.job import Launcher
from core.cluster.ray_job import refuse_too_large_a_job
from core.cluster.task import Task
from core.common import paths
from core.common.errors import UserError
from core.common.terminal import complain, tell


def submit(launcher: Launcher, name: str, words: Sequence[str]) -> Any:
    """Submit experiments.<name> with these words and print where it runs. Returns submitit's job."""
    if launcher.cluster == "ray":
        refuse_too_large_a_job(launcher)
    folder = new_folder(name)
    own = (f"experiments.{name}", *words)
    placed = ("core.cluster.ray_job", json.dumps(launcher.record()), folder.name) if launcher.cluster == "ray" else ()
    task = Task((*placed, *own), str(Path.cwd()), folder.name, launcher.save_seconds, visible(launcher))
    # submitit's own process starts where `core` can be imported; the child changes back to the current folder
    with chdir(paths.ROOT), _apart(folder / "controller.txt"), _outside_of_jobs():
        job = executor(launcher, folder).submit(task)
    count = launcher.nodes * launcher.tasks
    command = replace(task, words=own).command
    tell(f"job {job.job_id} on {launcher.cluster}: {command}, {count} task{'s' if count > 1 else ''}")
    tell(f"  logs    {folder}")
    tell(f"  follow  tail -n +1 -F {_log(job)}")
    tell(f"  cancel  {_cancel(job, launcher)}  (the job saves a checkpoint before it stops)")
    return job


def new_folder(name: str) -> Path:
    """Make the folder of a launch. Raises UserError."""
    started = time.strftime("%Y%m%d-%H%M%S")
    # one folder per launch: the ids of local jobs are process ids, which are reused
    folder = paths.launches() / f"{name}-{started}-{secrets.token_hex(2)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UserError([f"launches cannot be written to {folder.parent}: {error.strerror}"]) from None
    return folder


def hand_over(
    launcher: Launcher, folder: Path, task: Callable[[int], None], numbers: Sequence[int], at_once: int | None = None
) -> list[Any]:
    """Submit task(number) for each number as one job array. at_once: most elements that run at the same time. Returns
    submitit's jobs."""
    with chdir(paths.ROOT), _apart(folder / "controller.txt"), _outside_of_jobs():
        made = executor(launcher, folder)
        if at_once and launcher.cluster == "slurm":
            made.update_parameters(array_parallelism=at_once)
        jobs: list[Any] = made.map_array(task, numbers)
    return jobs


def executor(launcher: Launcher, folder: Path) -> Any:
    """submitit's executor for this launcher, with its files in `folder`."""
    import submitit

    shared = {"signal_delay_s": launcher.save_seconds, "stderr_to_stdout": True}
    if launcher.cluster != "slurm":
        local = submitit.LocalExecutor(folder, max_num_timeout=launcher.rounds - 1)
        tasks = launcher.tasks if launcher.cluster == "local" else 1  # with Ray, the process that starts the ranks
        local.update_parameters(timeout_min=launcher.hours * 60, tasks_per_node=tasks, **shared)
        return local
    slurm = submitit.SlurmExecutor(folder, max_num_timeout=launcher.rounds - 1)
    # srun has not taken --cpus-per-task from sbatch since Slurm 22.05; and a rank that fails must not leave the others
    # waiting for it until the time limit
    srun = [f"--cpus-per-task={launcher.cpus_per_task}"] if launcher.cpus_per_task else []
    more = {name: value if equals else True for name, equals, value in (o.partition("=") for o in launcher.sbatch)}
    slurm.update_parameters(
        job_name=folder.name,
        nodes=launcher.nodes,
        ntasks_per_node=launcher.tasks,
        gpus_per_node=launcher.gpus_per_node,
        cpus_per_task=launcher.cpus_per_task,
        mem=f"{math.ceil(launcher.mem_gb * 1024)}M" if launcher.mem_gb else None,
        time=math.ceil(launcher.hours * 60),
        partition=launcher.partition,
        account=launcher.account,
        qos=launcher.qos,
        constraint=launcher.constraint,
        setup=list(launcher.setup),
        srun_args=["--kill-on-bad-exit=1", *srun],
        wckey=None,  # submitit's own would be refused where wckeys are checked
        additional_parameters={"requeue": True} | more,
        **shared,
    )
    return slurm


def follow(job: Any, launcher: Launcher) -> int:
    """Print the log of the first task until the job ends. Returns 0 on success, else 1; 130 after Ctrl-C."""
    log, printed = _log(job), 0
    try:
        while not job.done():
            printed = _show(log, printed)
            time.sleep(0.5)
    except KeyboardInterrupt:
        if launcher.cluster != "local":
            tell(f"\njob {job.job_id} continues to run; to cancel it: {_cancel(job, launcher)}")
            return 130
        tell(f"\njob {job.job_id} saves a checkpoint and stops")
        _stop(job, launcher.save_seconds)
        _show(log, printed)
        return 130
    _show(log, printed)
    if job.exception() is None:
        return 0
    complain(f"job {job.job_id} failed; its logs are in {job.paths.folder}")
    return 1


def _stop(job: Any, seconds: float) -> None:
    """Terminate a local job as `kill` does, and wait up to `seconds` until it has saved its checkpoint."""
    try:
        os.kill(int(job.job_id), signal.SIGTERM)
        end = time.monotonic() + seconds
        while not job.done() and time.monotonic() < end:
            time.sleep(0.1)
    except (ProcessLookupError, KeyboardInterrupt):
        return


def _cancel(job: Any, launcher: Launcher) -> str:
    return f"scancel {job.job_id}" if launcher.cluster == "slurm" else f"kill {job.job_id}"


def _log(job: Any) -> Path:
    return Path(job.task(0).paths.stdout)


def _show(log: Path, printed: int) -> int:
    """Print the log from this byte on. Returns the number of bytes printed so far."""
    if not log.exists():
        return printed
    with log.open("rb") as file:
        file.seek(printed)
        new = file.read()
    sys.stdout.write(new.decode(errors="replace"))
    sys.stdout.flush()
    return printed + len(new)


def visible(launcher: Launcher) -> dict[str, str | None]:
    """The GPUs of a local job. submitit's local executor would hide all of them if none were requested."""
    if launcher.cluster != "local":
        return {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if launcher.gpus_per_node is None:
        return {"CUDA_VISIBLE_DEVICES": seen}
    named = seen.split(",") if seen is not None else [str(n) for n in range(launcher.gpus_per_node)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(named[: launcher.gpus_per_node])}


@contextmanager
def _apart(log: Path) -> Iterator[None]:
    """Redirect the standard streams to a file. The controller of a local job inherits and keeps the streams with which
    it is started; if one is a pipe, its reader would wait for the controller to exit."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(number) for number in (0, 1, 2)]
    nothing, file = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        for number, target in ((0, nothing), (1, file), (2, file)):
            os.dup2(target, number)
        yield
    finally:
        for number, original in enumerate(saved):
            os.dup2(original, number)
        for number in (*saved, nothing, file):
            os.close(number)


@contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the environment of a surrounding Slurm job, which the new job would take for its own."""
    inside = "SLURM_JOB_ID" in os.environ
    hidden = [n for n in os.environ if inside and n.startswith(("SLURM_", "SRUN_")) and n != "SLURM_CONF"]
    before = {name: os.environ.pop(name) for name in hidden}
    try:
        yield
    finally:
        os.environ.update(before)
