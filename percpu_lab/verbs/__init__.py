"""The verbs of the command line; each is entered by one function."""

from collections.abc import Callable, Sequence

from .ask import add_questions
from .common import Verbs
from .play import add_play, add_warm
from .review import add_report, add_review
from .stats import add_stats

#: in the order of the help
VERBS: Sequence[Callable[[Verbs], None]] = (add_review, add_report, add_stats, *add_questions, add_play, add_warm)

__all__ = ["VERBS"]
