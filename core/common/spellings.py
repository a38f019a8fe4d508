"""Names of options and metrics in other tools, for hints about their names in labbook."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_LR = "the learning rate is --optimizer.lr (--optimizer.base.lr for SAM)"
_DECAY = "weight decay is --optimizer.weight_decay (--optimizer.base.weight_decay for SAM)"
_BATCH = "the batch size is --batch_size"
_EPOCHS = "the number of epochs is --epochs"
_PRECISION = "mixed precision is --precision bf16 or --precision fp16; auto, the default, uses it on a GPU"
_CLIP = "gradient clipping is --clip_grad_norm or --clip_grad_value"
_ACCUMULATE = "gradient accumulation is --grad_accum_steps, the micro-batches per optimizer step"
_HOME = "runs are recorded below the folder that the environment variable LABBOOK_HOME names"
_DATA = "the data set is --data, the folder that holds its files is --root"
_NAMED = "the name of a run is --name"
_RESUME = "`labbook resume RUN` resumes an interrupted run"
_LOGGER = "every run is recorded on disk and sent to MLflow; --mlflow false only records it"
_GPUS = (
    "for several GPUs: --processes N, one process for each, or labbook launch --gpus_per_node N NAME; "
    "one GPU is --device cuda:1"
)
_WEIGHTS = (
    "pretrained weights are --model.weights: a name of torchvision (IMAGENET1K_V1) or timm (DEFAULT), a run, or a file"
)
_STOPPING = "early stopping is --stopping EarlyStopping, with --stopping.patience and --stopping.monitor"
_DECIDED = "it belongs to --seeds decided, and to labbook decide and accept"
_SWEEP = "declare SPACE and use the verb search to try many values; --seeds 5 trains five seeds"

# option, with _ for - -> what to do instead
OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "lr": _LR,
        "learning_rate": _LR,
        "wd": _DECAY,
        "bs": _BATCH,
        "max_epochs": _EPOCHS,
        "num_epochs": _EPOCHS,
        "amp": _PRECISION,
        "fp16": _PRECISION,
        "bf16": _PRECISION,
        "torchcompile": "the step is compiled with --compile on",
        "pretrained": _WEIGHTS,
        "run_name": _NAMED,
        "exp_name": _NAMED,
        "tag": "tags are --tags NAME=TEXT,NAME=TEXT",
        "output_dir": _HOME,
        "save_dir": _HOME,
        "log_dir": _HOME,
        "resume": _RESUME,
        "checkpoint": _RESUME,
        "ckpt_path": _RESUME,
        "logger": _LOGGER,
        "wandb": _LOGGER,
        "num_workers": "the number of loader worker processes is --workers",
        "gpus": _GPUS,
        "devices": _GPUS,
        "early_stopping": _STOPPING,
        "data_dir": _DATA,
        "data_path": _DATA,
        "dataset": _DATA,
        "arch": "the network is --model, such as --model ResNet",
        "scheduler": "the learning-rate schedule is --schedule, such as --schedule Cosine",
        "opt": "the optimizer is --optimizer, such as --optimizer AdamW",
        "clip_grad": _CLIP,
        "max_grad_norm": _CLIP,
        "gradient_clip_val": _CLIP,
        "accumulate_grad_batches": _ACCUMULATE,
        "gradient_accumulation_steps": _ACCUMULATE,
        "fast_dev_run": "a quick pass through every step is --smoke",
        "config": "an experiment is declared in experiments/NAME/__init__.py; --from RUN starts from a recorded one",
        "m": _SWEEP,
        "against": _DECIDED,
        "least": _DECIDED,
        "budget": _DECIDED,
        "multirun": _SWEEP,
    }
)

# last part of a metric's name -> what it is here
METRICS: Mapping[str, str] = MappingProxyType(
    {
        "acc": "accuracy",
        "acc1": "accuracy",
        "top1": "accuracy",
        "acc5": "top5",
        "bal_acc": "balanced_accuracy",
        "f1_score": "f1",
        "mAP": "map",
    }
)


def metric(name: str) -> str:
    """Returns the last part of the metric's name in labbook: accuracy for val_acc, val/acc and top1."""
    last = name.rsplit("/", 1)[-1]
    for prefix in ("val_", "valid_", "train_", "test_"):
        last = last.removeprefix(prefix)
    return METRICS.get(last, last)
