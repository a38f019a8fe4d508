"""Optuna studies over declarations. This is the only room that imports optuna, and SPACE itself does not."""

from core.search.space import Choice as Choice
from core.search.space import Float as Float
from core.search.space import Int as Int
