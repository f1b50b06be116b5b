"""Where Synchformers lie: a path, the name of a published run, or the embedded one."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
EMBEDDED = ROOT / "checkpoints" / "synchformer-tiny"
FOLDERS = (Path("logs/sync_models"), ROOT / "checkpoints" / "synchformer")
URL = "https://a3s.fi/swift/v1/AUTH_a235c0f452d648828f745589cde1219a/sync/sync_models"


@dataclass(frozen=True)
class Published:
    """A run of v-iashin/Synchformer: what its file is, below `URL`, and how its MD5 begins."""

    what: str
    file: str
    md5: str


PUBLISHED = {
    "23-12-23T18-33-57": Published("offsets, LRS3", "23-12-23T18-33-57.pt", "4415276"),
    "24-01-02T10-00-53": Published("offsets, VGGSound", "24-01-02T10-00-53.pt", "19592ed"),
    "24-01-04T16-39-21": Published("offsets, AudioSet", "24-01-04T16-39-21.pt", "54037d2"),
    "24-01-22T20-34-52": Published("synchronizability, AudioSet", "24-01-22T20-34-52.pt", "b1cb346"),
    "23-12-22T16-04-18": Published("stage I, LRS3", "checkpoints/epoch_best.pt", "20b6e55"),
    "23-12-22T16-10-50": Published("stage I, VGGSound", "checkpoints/epoch_best.pt", "a9979df"),
    "23-12-22T16-13-38": Published("stage I, AudioSet", "checkpoints/epoch_best.pt", "4a566f2"),
}


def locate(exp_name: str | None = None, ckpt: str | Path | None = None) -> Path:
    """The file or folder of a network: `ckpt` as it is, that of the run `exp_name`, else the embedded one.

    Nothing is fetched: a published file that is not here is told with its address. Raises: FileNotFoundError.
    """
    if ckpt is not None:
        return Path(ckpt)
    if exp_name is None:
        if not EMBEDDED.is_dir():
            raise FileNotFoundError(
                f"the embedded network {EMBEDDED} does not exist; pass --ckpt or --exp_name"
            )
        return EMBEDDED
    run = PUBLISHED.get(exp_name)
    file = run.file if run else f"{exp_name}.pt"
    places = [folder / exp_name / file for folder in FOLDERS]
    places += [folder / f"{exp_name}.pt" for folder in FOLDERS]
    for place in places:
        if place.is_file():
            return place
    if run is None:
        known = ", ".join(PUBLISHED)
        raise FileNotFoundError(f"no file of a run {exp_name!r} in {places[0].parent}; published are {known}")
    raise FileNotFoundError(
        f"the run {exp_name} ({run.what}) is not here: fetch {URL}/{exp_name}/{run.file} (MD5 {run.md5}...) "
        f"to {places[0]}"
    )
