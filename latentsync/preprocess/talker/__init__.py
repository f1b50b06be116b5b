"""Talking faces that are made, not filmed, with known lips and a known offset: drawn, or warped."""

from latentsync.preprocess.talker.drawn import DrawnTalker
from latentsync.preprocess.talker.files import pack_talkers, write_talker
from latentsync.preprocess.talker.portrait import Portrait, PortraitTalker
from latentsync.preprocess.talker.speech import Speech, babble, lips_of
from latentsync.preprocess.talker.talker import Talker
from latentsync.preprocess.talker.voices import espeak, recording

__all__ = [
    "DrawnTalker",
    "Portrait",
    "PortraitTalker",
    "Speech",
    "Talker",
    "babble",
    "espeak",
    "lips_of",
    "pack_talkers",
    "recording",
    "write_talker",
]
