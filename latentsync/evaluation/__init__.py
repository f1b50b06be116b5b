"""Dubbed clips judged from all sides: sync, lips, picture and form, each number with its validity."""

from latentsync.evaluation.clip import ClipRow, Evaluator, JudgedSync
from latentsync.evaluation.items import Item, items_in, other_sounds, read_list
from latentsync.evaluation.judges import judges_at_hand, missing
from latentsync.evaluation.page import write_page
from latentsync.evaluation.summary import Interval, bootstrap, summary
from latentsync.evaluation.text import json_line, summary_line, table

__all__ = [
    "ClipRow",
    "Evaluator",
    "Interval",
    "Item",
    "JudgedSync",
    "bootstrap",
    "items_in",
    "json_line",
    "judges_at_hand",
    "missing",
    "other_sounds",
    "read_list",
    "summary",
    "summary_line",
    "table",
    "write_page",
]
