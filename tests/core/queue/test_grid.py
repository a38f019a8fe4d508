"""The combinations of a grid."""

import pytest

from core.common.errors import UserError
from core.queue.grid import combinations


def test_the_last_name_varies_fastest_and_brackets_keep_their_commas():
    assert combinations(["optimizer.lr=0.1,0.2", "seed=0,1"]) == [
        ["--optimizer.lr", "0.1", "--seed", "0"],
        ["--optimizer.lr", "0.1", "--seed", "1"],
        ["--optimizer.lr", "0.2", "--seed", "0"],
        ["--optimizer.lr", "0.2", "--seed", "1"],
    ]
    assert combinations([]) == [[]]
    (first, second) = combinations(['loss={"class": "FocalLoss", "gamma": 2},CrossEntropy', "model.widths=[8,16]"])
    assert first == ["--loss", '{"class": "FocalLoss", "gamma": 2}', "--model.widths", "[8,16]"]
    assert second[:2] == ["--loss", "CrossEntropy"]


def test_all_mistakes_of_a_grid_are_named():
    with pytest.raises(UserError) as error:
        combinations(["lr", "seed=0,0", "epochs=1,", "lr.a=1", "lr-a=1", "--lr.a=2"])
    assert error.value.lines == [
        "--grid lr: should be NAME=VALUE,VALUE, such as optimizer.lr=0.1,0.2",
        "--grid seed=0,0: 0 is given twice",
        "--grid epochs=1,: should be NAME=VALUE,VALUE, such as optimizer.lr=0.1,0.2",
        "--grid --lr.a=2: lr.a is given twice",
    ]
    with pytest.raises(UserError, match="10,201 combinations are more than 10,000"):
        combinations([f"{name}={','.join(map(str, range(101)))}" for name in ("seed", "epochs")])
