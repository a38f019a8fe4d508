"""The verbs of the command line and their descriptions in `labbook --help`. The code of a verb is core/cli/VERB.py."""

from __future__ import annotations

# python -m experiments.NAME VERB is the same as labbook VERB NAME
OF_AN_EXPERIMENT = {
    "train": "train the model (the default)",
    "resume": "resume the latest interrupted run, or the run that is named",
    "search": "search hyperparameters over SPACE with Optuna; run it again to resume a study",
    "lr_find": "learning-rate range test on a copy of the model; suggests a learning rate",
    "probe": "k-nearest-neighbor and linear probe on the features of the network; nothing is trained",
    "summary": "layers, output shapes, parameters and FLOPs; nothing is trained",
    "look": "save the augmented images of the first batch as a PNG (--to PATH)",
}


OF_RUNS = {
    "runs": "list the runs on record, the latest first (--tag, --since, --json, ...)",
    "show": "RUN: a run on one screen",
    "diff": "RUN RUN: what differs between two runs",
    "tag": "RUN ... NAME=TEXT ...: set tags of runs",
    "note": "RUN TEXT: set the note of a run",
    "rename": "RUN NAME: give a run a name",
    "archive": "RUN ...: leave runs out of lists and comparisons (--undo takes them back)",
    "rm": "RUN ...: remove runs from the record; asks first",
    "compare": "compare settings over their seeds, with confidence intervals",
    "decide": "A B: train seeds until it is decided which setting is better",
    "accept": "A --over B: whether A is shown to be better, as the exit status",
    "report": "RUN: write the report page of a finished run again",
    "evaluate": "RUN ...: metrics with intervals, also on another set or on corrupted images",
    "predict": "RUN ... PATH ...: the classes of new images, from one run or several",
    "ensemble": "RUN ...: choose runs whose mean answer is best on val, and test it once",
    "soup": "RUN ...: average the weights of runs that started from the same ones",
    "metric": "RUN ...: compute metrics of finished runs from their answers (--metric NAME)",
    "flips": "A B: which images B gets right that A gets wrong, and vice versa",
    "answers": "RUN ...: compute the answers of finished runs that have none",
    "rerun": "RUN: train the same declaration again and check that the result is the same",
    "export": "RUN: files for other engines, measured before they are kept (--to onnx,...)",
    "publish": "RUN DIR: a folder for the Hugging Face hub: model card, weights, answers, record",
    "benchmark": "RUN: latency and throughput of its network in several engines",
    "register": "RUN NAME: add the model of a run to MLflow's model registry",
    "import": "PATH ...: add old runs (logs, MLflow, W&B, Neptune) to the record",
    "sync": "[RUN ...]: send everything that MLflow, or --to another tracker, does not have yet",
    "ui": "open MLflow's pages in the browser",
}


OTHERS = {
    "list": "list the experiments: result, best run on record, question",
    "doctor": "what this machine can do before anything trains, each thing tried (--json)",
    "launch": "run an experiment as a job of Slurm, Ray or this machine; resumes when preempted",
    "queue": "add, list, run, retry, rm, submit: command lines that wait for a GPU or for CPU cores",
    "check": "PATH: inspect your own images before a run reads them",
    "pack": "PATH: check, reduce and pack images into shards, LMDB, HDF5 or Parquet (--to, --out)",
    "check_loss": "check the gradients, values and targets of a loss of yours",
    "cache": "list the decoded data in data/store, or remove old data (--prune DAYS)",
    "clean": "list the checkpoints of finished runs, or remove them (--yes)",
    "ledger": "how often the test split of each data set has been read",
    "figures": "update the numbers and pictures in the READMEs from the record",
}


VERBS = {**OF_AN_EXPERIMENT, **OF_RUNS, **OTHERS}


TRAINING = (*OF_AN_EXPERIMENT, "launch")  # verbs that start nothing if there is an error on the command line
