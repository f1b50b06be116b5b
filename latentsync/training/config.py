"""How long, how fast and how carefully to learn: the settings of the loop, the same for every network."""

from dataclasses import dataclass

SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial")
POSITIVE = ("steps", "batch_size", "gradient_accumulation_steps", "learning_rate", "save_every", "log_every")
NOT_NEGATIVE = (
    "warmup_steps",
    "weight_decay",
    "max_gradient_norm",
    "seed",
    "num_workers",
    "keep_last",
    "validate_every",
)


@dataclass(frozen=True)
class LoopConfig:
    """A step is one update of the weights; it sees `batch_size` samples in each of
    `gradient_accumulation_steps` micro-batches on every process.

    `learning_rate` follows `lr_scheduler` (a name of diffusers' get_scheduler) to its end at `steps`, after
    `warmup_steps` of linear rise, counted in steps whatever the number of processes; the rise starts at the
    share `warmup_from` of it, 0 for a first step of 1 / `warmup_steps`. With `scale_lr` it is
    first multiplied by processes x gradient_accumulation_steps x batch_size, as diffusers' training scripts
    do (upstream LatentSync: by processes alone). Zero switches off `max_gradient_norm` and `ema_decay`, keeps
    every checkpoint for `keep_last`, and validates at every checkpoint for `validate_every`.

    Raises: ValueError for a number out of range or an unknown schedule.
    """

    steps: int = 1000
    batch_size: int = 16
    gradient_accumulation_steps: int = 1
    learning_rate: float = 1e-3
    scale_lr: bool = False
    lr_scheduler: str = "cosine"
    warmup_steps: int = 50
    warmup_from: float = 0.0
    weight_decay: float = 1e-2
    max_gradient_norm: float = 1.0
    ema_decay: float = 0.998
    seed: int = 1247
    num_workers: int = 0
    save_every: int = 200
    keep_last: int = 2
    validate_every: int = 0
    log_every: int = 20

    def __post_init__(self) -> None:
        for names, is_right, wanted in (
            (POSITIVE, lambda value: value > 0, "more than 0"),
            (NOT_NEGATIVE, lambda value: value >= 0, "0 or more"),
            (("ema_decay", "warmup_from"), lambda value: 0 <= value < 1, "at least 0 and below 1"),
        ):
            for name in names:
                if not is_right(getattr(self, name)):
                    raise ValueError(f"loop.{name} is {getattr(self, name)}; it must be {wanted}")
        if self.lr_scheduler not in SCHEDULES:
            raise ValueError(f"loop.lr_scheduler is {self.lr_scheduler!r}; known: {', '.join(SCHEDULES)}")

    @property
    def validates_every(self) -> int:
        """Steps from one validation to the next."""
        return self.validate_every or self.save_every
