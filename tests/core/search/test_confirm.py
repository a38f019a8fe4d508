"""What is said of trials that were retrained with new seeds."""

from types import SimpleNamespace

import pytest

from core.search.confirm import Confirmed, messages
from core.search.objectives import Goals


@pytest.mark.parametrize(
    ("goal", "searched", "values", "line"),
    [
        ("val/accuracy", 0.972, (0.98, 0.97, 0.98),
         "trial 4: accuracy 97.67% +- 1.43% with 3 new seeds, 97.20% in the search; "
         "optimism of the search -0.47 points"),
        ("val/loss", 0.5, (0.6,),
         "trial 4: loss 0.6000 with 1 new seed, 0.5000 in the search; optimism of the search 0.1000"),
        ("parameters", 1000.0, (1000.0, 1000.0),
         "trial 4: 1,000 parameters +- 0 with 2 new seeds, 1,000 in the search; optimism of the search 0"),
        ("seconds", 10.0, (12.0,),
         "trial 4: 12.0 s with 1 new seed, 10.0 s in the search; optimism of the search 2.0 s"),
    ],
    ids=["accuracy", "loss", "parameters", "seconds"],
)  # fmt: skip
def test_each_number_has_its_unit_and_the_name_stands_once(goal, searched, values, line):
    runner = SimpleNamespace(goals=Goals((goal,), "best"))
    lines = messages(runner, [Confirmed(4, searched, values, (0.9,) * len(values), ())])
    assert lines[0] == line
