"""Every private or undocumented API of another package that labbook uses, and what to do when it goes.

Such an API can change in any release. So it is listed in the table, its package has an upper bound in pyproject.toml,
and a test checks that the installed version still has it. A use without a row fails, and so does a row without a use.
"""

import ast
import importlib
import inspect
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [path for tree in ("core", "data", "experiments") for path in sorted((ROOT / tree).rglob("*.py"))]
# modules without an underscore that their package does not document
UNDOCUMENTED = (
    *("mlflow.store", "mlflow.system_metrics", "mlflow.utils"),
    *("tensorboard", "torchvision.models.vision_tra", "trackio.sqlite_storage"),
)
OWN = ("core", "data", "experiments")
DOCUMENTED = {"_replace", "_asdict", "_fields", "_make", "_exit"}  # of named tuples; os._exit


class Use(NamedTuple):
    """One API: its name, the file that uses it, and what to do when an upgrade has removed it."""

    api: str
    file: str
    otherwise: str

    @property
    def name(self) -> str:
        return self.api.rpartition(".")[2]


_FOREACH = "compute the norm and the sum in a loop over tensors: slower, the same numbers"
_VALIDATE = "leave the name to the server, which refuses it after training instead of before"
_MONITOR = "sample psutil and pynvml in core/tracking/system.py, under the same names"
_EVENTS = "read the events with tensorboard.backend.event_processing.event_accumulator, or vendor the five messages"
_WRITER = "write new files with torch.utils.tensorboard.SummaryWriter, which imports torch and cannot continue a file"
_FAKE = "leave --memory out of summary, or run the two steps for real and read torch's allocator"
_LIVENESS = "write a user attribute with the time, and queue again what has been silent for GRACE seconds"
_STEP = "draw from random.Random(key) in each of core's own steps; transforms of albumentations cannot be keyed then"
USES = [
    Use("torch._foreach_norm", "core/training/step.py", _FOREACH),
    Use("torch._foreach_norm", "core/optimizers/sam.py", _FOREACH),
    Use("torch._foreach_add_", "core/optimizers/sam.py", _FOREACH),
    Use("torch._foreach_mul", "core/optimizers/sam.py", _FOREACH),
    Use("torch._foreach_add_", "core/training/shards.py", _FOREACH),
    Use("torch._foreach_mul_", "core/training/shards.py", _FOREACH),
    Use("torch._foreach_copy_", "core/training/shards.py", "copy in a loop over tensors: slower, the same numbers"),
    Use("torch._foreach_copy_", "core/training/state.py", "copy in a loop over tensors: slower, the same numbers"),
    Use(
        "torch.nn.modules.batchnorm._BatchNorm",
        "core/common/tensors.py",
        "name the public classes: nn.BatchNorm1d, BatchNorm2d, BatchNorm3d and SyncBatchNorm",
    ),
    Use("torch.nn.modules.conv._ConvNd", "core/models/initialize.py", "name the public convolutions of torch.nn"),
    *(
        Use(f"torch.{name}", "core/diagnostics/step_memory.py", _FAKE)
        for name in (
            "_subclasses.fake_tensor",
            "_subclasses.fake_tensor.DataDependentOutputException",
            "_subclasses.fake_tensor.DynamicOutputShapeException",
            "_subclasses.fake_tensor.FakeTensorMode",
            "utils._python_dispatch",
            "utils._python_dispatch.TorchDispatchMode",
            "utils._pytree",
            "utils._pytree.tree_leaves",
        )
    ),
    Use("torch.ops.aten._cudnn_rnn", "core/models/flops.py", "count no FLOPs of recurrent layers on a GPU"),
    Use(
        "torch.nn.Module._forward_hooks",
        "core/training/distributed.py",
        "register the hooks again after SyncBatchNorm has replaced the module",
    ),
    Use(
        "torch.utils.data._utils",
        "core/loading/watchdog.py",
        "let the death of a worker that is killed on purpose raise, and ignore it",
    ),
    Use(
        "torch.utils.data._utils.signal_handling._remove_worker_pids",
        "core/loading/watchdog.py",
        "let the death of a worker that is killed on purpose raise, and ignore it",
    ),
    Use(
        "torch.utils.data.DataLoader._iterator",
        "core/loading/watchdog.py",
        "find the workers among multiprocessing.active_children()",
    ),
    Use(
        "torch.utils.data.dataloader._MultiProcessingDataLoaderIter._workers",
        "core/loading/watchdog.py",
        "find the workers among multiprocessing.active_children()",
    ),
    Use(
        "torchvision.models.vision_transformer.interpolate_embeddings",
        "core/models/transfer.py",
        "resize the grid of embeddings with torch.nn.functional.interpolate (bicubic, align_corners=True)",
    ),
    Use("albumentations.Compose.set_random_state", "core/augment/pipeline.py", _STEP),
    Use("albumentations.BasicTransform.py_random", "core/augment/albumentation.py", _STEP),
    Use("mlflow.utils.validation._validate_model_name", "core/tracking/registry.py", _VALIDATE),
    Use("mlflow.utils.validation._validate_model_alias_name", "core/tracking/registry.py", _VALIDATE),
    Use("mlflow.utils.validation._validate_model_alias_name_reserved", "core/tracking/registry.py", _VALIDATE),
    Use(
        "mlflow.utils.mlflow_tags.MLFLOW_MODEL_VERSIONS",
        "core/tracking/registry.py",
        "write its value, mlflow.modelVersions, or leave the link from the run out",
    ),
    Use("mlflow.system_metrics.metrics.base_metrics_monitor.BaseMetricsMonitor", "core/tracking/system.py", _MONITOR),
    Use("mlflow.system_metrics.metrics.cpu_monitor.CPUMonitor", "core/tracking/system.py", _MONITOR),
    Use("mlflow.system_metrics.metrics.disk_monitor.DiskMonitor", "core/tracking/system.py", _MONITOR),
    Use("mlflow.system_metrics.metrics.gpu_monitor.GPUMonitor", "core/tracking/system.py", _MONITOR),
    Use("mlflow.system_metrics.metrics.network_monitor.NetworkMonitor", "core/tracking/system.py", _MONITOR),
    Use("mlflow.system_metrics.metrics.rocm_monitor.ROCMMonitor", "core/tracking/system.py", _MONITOR),
    Use("optuna.storages.fail_stale_trials", "core/search/storage.py", _LIVENESS),
    Use("optuna.storages.RDBStorage.record_heartbeat", "core/search/storage.py", _LIVENESS),
    Use(
        "optuna.storages.RetryHeartbeatStaleTrialCallback.retried_trial_number",
        "core/search/study.py",
        "leave the sentence about the silent machine out",
    ),
    Use(
        "optuna.storages.BaseStorage.get_trial_id_from_study_id_trial_number",
        "core/search/storage.py",
        "find the trial by its number in another public way; a trial is resumed by its id",
    ),
    Use("submitit.helpers.DelayedSubmission", "core/cluster/task.py", "call sbatch --requeue from the task itself"),
    Use("submitit.JobEnvironment.USR_SIG", "core/cluster/task.py", "name the signal in the options of sbatch"),
    Use("tensorboard.data_compat", "core/importing/tensorboard.py", _EVENTS),
    Use(
        "tensorboard.backend.event_processing.event_file_loader.RawEventFileLoader",
        "core/importing/tensorboard.py",
        _EVENTS,
    ),
    Use("tensorboard.compat.proto.event_pb2.Event", "core/importing/tensorboard.py", _EVENTS),
    Use("tensorboard.util.tensor_util", "core/importing/tensorboard.py", _EVENTS),
    Use("tensorboard.plugins.hparams.plugin_data_pb2.HParamsPluginData", "core/importing/tensorboard.py", _EVENTS),
    Use("tensorboard.compat.proto.event_pb2.Event", "core/tracking/tensorboard_files.py", _WRITER),
    Use("tensorboard.compat.proto.summary_pb2.Summary", "core/tracking/tensorboard_files.py", _WRITER),
    Use("tensorboard.plugins.hparams.metadata", "core/tracking/tensorboard_files.py", _WRITER),
    Use("tensorboard.plugins.hparams.api_pb2.Status", "core/tracking/tensorboard_files.py", _WRITER),
    Use("tensorboard.plugins.hparams.plugin_data_pb2.HParamsPluginData", "core/tracking/tensorboard_files.py", _WRITER),
    Use("tensorboard.plugins.hparams.plugin_data_pb2.SessionEndInfo", "core/tracking/tensorboard_files.py", _WRITER),
    Use("tensorboard.plugins.hparams.plugin_data_pb2.SessionStartInfo", "core/tracking/tensorboard_files.py", _WRITER),
    Use("tensorboard.plugins.text.metadata.create_summary_metadata", "core/tracking/tensorboard_files.py", _WRITER),
    Use("tensorboard.summary.writer.record_writer.RecordWriter", "core/tracking/tensorboard_files.py", _WRITER),
    Use("tensorboard.util.tensor_util.make_tensor_proto", "core/tracking/tensorboard_files.py", _WRITER),
    Use(
        "trackio.sqlite_storage.SQLiteStorage",
        "core/tracking/trackio_store.py",
        "log with trackio.init and Run.log, and write a run again from the beginning after a kill, as for W&B",
    ),
]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__") and name != "_"


def defined(tree: ast.AST) -> set[str]:
    """Names that a file itself defines: functions, classes, variables, attributes that it assigns."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
    return found


@cache
def used() -> set[tuple[str, str]]:
    """(file, name) of every use of what is private, or of an undocumented module, of another package."""
    trees = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in SOURCES}
    everywhere = set().union(*map(defined, trees.values()))
    found = set()
    for file, tree in trees.items():
        here = defined(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr):
                of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
                found |= {(file, node.attr)} - {(file, name) for name in (everywhere if of_self else here)}
            elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] not in OWN:
                inner = any(map(is_private, node.module.split("."))) or node.module.startswith(UNDOCUMENTED)
                found |= {(file, alias.name) for alias in node.names if inner or is_private(alias.name)}
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                found |= {(file, name) for name in names if any(map(is_private, name.split(".")))}
                found |= {(file, name) for name in names if name.startswith(UNDOCUMENTED)}
    return {(file, name) for file, name in found if name not in DOCUMENTED}


def test_every_use_is_in_the_table():
    missing = used() - {(use.file, use.name) for use in USES}
    assert not missing, "take public API, or add a row that says what to do when it goes"


@pytest.mark.parametrize("use", USES, ids=lambda use: f"{use.api} in {use.file}")
def test_every_row_has_a_use_and_the_installed_version_has_it(use):
    text = (ROOT / use.file).read_text()
    assert re.search(rf"\b{use.name}\b", text) or '"_forward_"' in text, f"{use.file} no longer uses {use.api}"
    module, _, rest = use.api, "", []
    while True:
        try:
            owner = importlib.import_module(module)
            break
        except ModuleNotFoundError as error:
            if error.name and error.name.split(".")[0] == error.name:
                pytest.skip(f"{error.name} is not installed")
            module, _, last = module.rpartition(".")
            rest.insert(0, last)
    for name in rest:
        if not hasattr(owner, name):  # an attribute of instances
            assert re.search(rf"\b{name}\b", inspect.getsource(owner)), f"{use.api} is gone: {use.otherwise}"
            break
        owner = getattr(owner, name)


def test_the_packages_in_the_table_are_those_with_an_upper_bound():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(one for some in project["optional-dependencies"].values() for one in some),
    ]
    bounded = {re.split(r"[\[<>=]", one)[0] for one in requirements if "<" in one}
    assert bounded == {use.api.split(".")[0] for use in USES}
