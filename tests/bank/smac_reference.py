"""SMAC3 on the bank, in an environment of its own: pip install smac. It is no dependency of labbook.

    python tests/bank/smac_reference.py BANK.npz EPOCHS REPLAYS

BANK.npz is written by `python -m tests.bank --to-smac BANK.npz`. SMAC's facade for hyperparameters, with up to 8 seeds
of a configuration as the race has, gets EPOCHS epochs; a run costs all of its epochs, for the facade stops none early.
A configuration is the nearest declaration of the bank, as in the replays of labbook's rules.
"""

import json
import logging
import sys
import tempfile

import numpy as np
from ConfigSpace import Categorical, ConfigurationSpace, EqualsCondition, Float
from smac import HyperparameterOptimizationFacade, Scenario


def space(dimensions: dict[str, dict]) -> ConfigurationSpace:
    found = ConfigurationSpace(seed=0)
    made = {}
    for name, each in dimensions.items():
        made[name] = (
            Categorical(name, each["options"], default=each["options"][0])
            if "options" in each
            else Float(name, (each["low"], each["high"]), log=each["log"])
        )
        found.add(made[name])
    for name in dimensions:
        if name.endswith(")"):  # optimizer.lr (SGD): only where optimizer is SGD
            parent = name.split(".")[0]
            found.add(EqualsCondition(made[name], made[parent], name[name.index("(") + 1 : -1]))
    return found


def nearest(params: dict, table: list[dict], dimensions: dict[str, dict]) -> int:
    def apart(name: str, a: object, b: object) -> float:
        if not (isinstance(a, float) and isinstance(b, float)):
            return float(a != b)
        low, high = dimensions[name]["low"], dimensions[name]["high"]
        return abs(np.log(a / b) / np.log(high / low)) if dimensions[name]["log"] else abs(a - b) / (high - low)

    def total(row: dict) -> float:
        return sum(apart(name, params.get(name), row.get(name)) for name in {*params, *row})

    return min(range(len(table)), key=lambda number: total(table[number]))


def replay(bank: dict, scores: np.ndarray, runs: int, seed: int) -> int:
    rng = np.random.default_rng(seed)
    dimensions, table = bank["dimensions"], bank["parameters"]

    def train(config, seed: int = 0) -> float:
        return 1.0 - float(rng.choice(scores[nearest(dict(config), table, dimensions)]))

    with tempfile.TemporaryDirectory() as out:
        scenario = Scenario(space(dimensions), n_trials=runs, seed=seed, deterministic=False, output_directory=out)
        facade = HyperparameterOptimizationFacade
        smac = facade(
            scenario, train, intensifier=facade.get_intensifier(scenario, max_config_calls=8),
            logging_level=logging.ERROR, overwrite=True,
        )  # fmt: skip
        return nearest(dict(smac.optimize()), table, dimensions)


def main() -> None:
    with np.load(sys.argv[1]) as file:
        scores, bank = file["scores"], json.loads(str(file["space"]))
    runs, replays = int(sys.argv[2]) // bank["epochs"], int(sys.argv[3])
    means = scores.mean(axis=1)
    regrets = np.array([means.max() - means[replay(bank, scores, runs, seed)] for seed in range(replays)])
    error = regrets.std(ddof=1) / replays**0.5
    print(f"SMAC3, {runs} runs, {scores.shape[1]} seeds in the bank, {replays} replays: "
          f"regret {100 * regrets.mean():.3f} +- {100 * error:.3f} points")  # fmt: skip


if __name__ == "__main__":
    main()
