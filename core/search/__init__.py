"""Optuna studies over declarations. Only this package imports optuna; the definition of SPACE does not."""

from core.search.space import Choice as Choice
from core.search.space import Float as Float
from core.search.space import Int as Int
