"""The exceptions of this project: each message names the thing, its value, what was expected and the remedy.

A wrong argument is a ValueError and a missing path a FileNotFoundError, as everywhere in Python; these are
the failures a caller may want to tell apart. Command lines print the message alone and leave with exit code
2.
"""


class LatentSyncError(Exception):
    """Any failure that the user can mend: bad footage, bad weights, bad configuration."""


class MediaError(LatentSyncError):
    """A file cannot be read or written as the picture or sound that it should be."""


class FootageError(LatentSyncError):
    """A collection of training clips that is empty, laid out otherwise, leaks, or is mostly unusable."""


class FaceNotFound(LatentSyncError):
    """No face that can be worked on, in a whole clip or in a picture that must have one."""


class CheckpointError(LatentSyncError):
    """Weights that are missing, damaged, or belong to another model."""


class ConfigError(LatentSyncError):
    """A configuration with an unknown key, a wrong type, or values that contradict each other."""


class TrainingError(LatentSyncError):
    """A training run that cannot go on: a loss that is no number, data that end, a checkpoint that cannot be
    written.
    """


def first_line(error: Exception) -> str:
    """What an error says, or is, in one short line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
