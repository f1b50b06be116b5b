"""The main job: `dub` a clip with a new soundtrack."""

from latentsync.dubbing.job import dub
from latentsync.dubbing.measure import profile_dub
from latentsync.dubbing.model import DEFAULT_MODEL, load_model
from latentsync.dubbing.profile import Profile
from latentsync.dubbing.report import DubReport, Progress, report_place
from latentsync.dubbing.settings import DubSettings

__all__ = [
    "DEFAULT_MODEL",
    "DubReport",
    "DubSettings",
    "Profile",
    "Progress",
    "dub",
    "load_model",
    "profile_dub",
    "report_place",
]
