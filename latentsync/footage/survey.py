"""Which clips of a collection serve for training: each is measured once, and dropped by rule or kept.

What is dropped is counted, with the reason; when it is more than a share of all, the run stops, since then
the footage or a setting is wrong. Measurements of videos are kept under their content key.
"""

import json
import logging
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from latentsync.errors import FootageError, LatentSyncError
from latentsync.footage.clip import heard_frames, open_clip
from latentsync.footage.content import ContentKeys, written_aside
from latentsync.footage.listing import EXAMPLES, ClipFile

VERSION = 1  # of what is measured below
SURVEY_SIDE = 64  # pixels: enough to see whether a face moves
SAMPLED_PICTURES = 12

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClipFacts:
    """What a clip is made of; levels are those of 8 bits."""

    frames: int  # at 25 fps
    samples: int  # at 16 kHz; 0 without a soundtrack
    side: int  # of its faces, pixels
    loudness_db: float  # RMS without its mean, below full scale; -inf for digital silence
    brightness: float  # mean level
    motion: float  # mean change of level between pictures spread over the clip, in the lower half

    @property
    def usable_frames(self) -> int:
        """Frames, from the first on, that have their sound."""
        return heard_frames(self.frames, self.samples)


@dataclass(frozen=True)
class Rules:
    """When a clip is dropped. Thresholds lie far below what talking faces show."""

    min_frames: int
    silent_db: float = -60.0
    still_levels: float = 0.5  # a photograph, encoded as a film, stays below it
    dark_levels: float = 12.0
    max_dropped_share: float = 0.2

    def reason_against(self, facts: ClipFacts) -> tuple[str, str] | None:
        """The rule that a clip breaks, and the number that breaks it; None where it serves."""
        if facts.samples == 0:
            return "no sound", "no soundtrack"
        if facts.usable_frames < self.min_frames:
            return "too short", f"{facts.usable_frames} frames with sound, {self.min_frames} needed"
        if facts.loudness_db < self.silent_db:
            return "silent", f"{facts.loudness_db:.0f} dB, {self.silent_db:.0f} needed"
        if facts.brightness < self.dark_levels:
            return "dark", f"mean level {facts.brightness:.1f}, {self.dark_levels:.0f} needed"
        if facts.motion < self.still_levels:
            return "still", f"moves by {facts.motion:.2f} levels, {self.still_levels} needed"
        return None


@dataclass(frozen=True)
class KnownClip:
    """A clip that serves, with its measurements."""

    file: ClipFile
    facts: ClipFacts


@dataclass(frozen=True)
class Dropped:
    """A clip that does not serve: the rule ("too short", "unreadable", ...) and the detail."""

    file: ClipFile
    reason: str
    detail: str


@dataclass(frozen=True)
class Selection:
    """A collection after the rules."""

    kept: tuple[KnownClip, ...]
    dropped: tuple[Dropped, ...]

    @property
    def dropped_share(self) -> float:
        return len(self.dropped) / max(1, len(self.dropped) + len(self.kept))

    def by_reason(self) -> dict[str, list[Dropped]]:
        """The dropped clips under the rule that each breaks, the most frequent first."""
        groups: dict[str, list[Dropped]] = {}
        for clip in self.dropped:
            groups.setdefault(clip.reason, []).append(clip)
        return dict(sorted(groups.items(), key=lambda item: -len(item[1])))

    def table(self) -> str:
        """One line in all, then one a reason with its count and first examples."""
        total = len(self.kept) + len(self.dropped)
        frames = sum(clip.facts.usable_frames for clip in self.kept)
        lines = [f"{len(self.kept)} of {total} clips serve, {frames} frames ({frames / 25 / 60:.1f} minutes)"]
        for reason, clips in self.by_reason().items():
            examples = "; ".join(f"{clip.file.path}: {clip.detail}" for clip in clips[:EXAMPLES])
            lines.append(f"{len(clips)} {reason} ({examples}{'; ...' if len(clips) > EXAMPLES else ''})")
        return "\n".join(lines)


class Surveyor:
    """Measures clips, keeping what it found below `folder`."""

    def __init__(self, folder: str | Path, keys: ContentKeys) -> None:
        self.folder, self.keys = Path(folder), keys

    def facts(self, clip: ClipFile) -> ClipFacts:
        """What a clip is made of; packed ones are measured anew, which costs milliseconds.

        Raises: LatentSyncError or FileNotFoundError for a clip that cannot be read.
        """
        if clip.kind == "packed":
            return measure(clip)
        key = self.keys.of(clip)
        place = self.folder / f"facts-{VERSION}" / key[:2] / f"{key}.json"
        known = _stored_facts(place)
        if known is None:
            known = measure(clip)
            with written_aside(place) as file:
                file.write(json.dumps(asdict(known)).encode())
        return known

    def select(self, clips: Iterable[ClipFile], rules: Rules) -> Selection:
        """The clips that serve by `rules`, and the others with what speaks against them.

        Raises: FootageError when there are none, or more are dropped than `rules.max_dropped_share`.
        """
        selection = self.sort_out(clips, rules)
        if selection.dropped_share > rules.max_dropped_share or not selection.kept:
            total = len(selection.dropped) + len(selection.kept)
            raise FootageError(
                f"{len(selection.dropped)} of {total} clips would be dropped, more than the share of "
                f"{rules.max_dropped_share:g} that may be (max_dropped_share): {selection.table()}"
            )
        if selection.dropped:
            logger.warning("clips are left out of training: %s", selection.table())
        return selection

    def sort_out(self, clips: Iterable[ClipFile], rules: Rules) -> Selection:
        """`select` without a limit."""
        kept: list[KnownClip] = []
        dropped: list[Dropped] = []
        for clip in clips:
            verdict = self.judge(clip, rules)
            if isinstance(verdict, KnownClip):
                kept.append(verdict)
            else:
                dropped.append(verdict)
        return Selection(tuple(kept), tuple(dropped))

    def judge(self, clip: ClipFile, rules: Rules) -> KnownClip | Dropped:
        """One clip under the rules; one that cannot be read is dropped, whatever the rules say."""
        try:
            facts = self.facts(clip)
        except (LatentSyncError, FileNotFoundError) as error:
            return Dropped(clip, "unreadable", str(error))
        against = rules.reason_against(facts)
        return Dropped(clip, *against) if against else KnownClip(clip, facts)


def measure(file: ClipFile) -> ClipFacts:
    """Look through a clip once. Raises: LatentSyncError or FileNotFoundError where it cannot be read."""
    with open_clip(file, SURVEY_SIDE, allow_upscale=True) as clip:
        pictures = clip.pick(spread(clip.frames)).astype(np.float32)
        lower = pictures[:, SURVEY_SIDE // 2 :]
        changes = np.abs(np.diff(lower, axis=0)) if len(lower) > 1 else np.zeros(1)
        sound = clip.waveform if clip.has_sound else np.zeros(0, np.float32)
        rms = float(sound.std()) if len(sound) else 0.0
        return ClipFacts(
            frames=clip.frames,
            samples=len(sound),
            side=clip.side,
            loudness_db=20 * math.log10(rms) if rms else -math.inf,
            brightness=float(pictures.mean()),
            motion=float(changes.mean()),
        )


def spread(frames: int, count: int = SAMPLED_PICTURES) -> list[int]:
    """At most `count` different frames from the first to the last."""
    return sorted({round(place) for place in np.linspace(0, frames - 1, count)})


def _stored_facts(place: Path) -> ClipFacts | None:
    if not place.is_file():
        return None
    try:
        return ClipFacts(**json.loads(place.read_bytes()))
    except (ValueError, TypeError):
        logger.warning("%s is damaged; the clip is measured again", place)
        return None
