"""Trains a Synchformer: stage I (segments), stage II (offsets), or whether an offset can be told.

    accelerate launch scripts/train_synchformer.py --config configs/synchformer/segment_avclip.yaml \\
        data.dataset=lrs3 data.vids_path=DATA data.lists=LISTS output=runs/segments
    accelerate launch scripts/train_synchformer.py --config configs/synchformer/sync.yaml \\
        data.dataset=lrs3 data.vids_path=DATA model.segments=runs/segments/best output=runs/sync
    accelerate launch scripts/train_synchformer.py --config configs/synchformer/ft_synchability.yaml \\
        data.dataset=audioset data.vids_path=DATA model.start=runs/sync/best output=runs/synchability

The same command again goes on where a run was stopped.
"""

from latentsync.command import TrainingParser, leave


def main() -> int:
    parser = TrainingParser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of the run (configs/synchformer/)")
    flags = parser.parse_args()

    from latentsync.config import load_config
    from latentsync.sync.synchformer.train_segments import train_segments
    from latentsync.sync.synchformer.train_sync import train_offsets, train_synchronizability
    from latentsync.sync.synchformer.training_config import SynchformerTrainConfig
    from latentsync.training import make_accelerator, run_job

    trainers = {
        "segment_avclip": train_segments,
        "sync": train_offsets,
        "ft_synchability": train_synchronizability,
    }

    def job() -> None:
        config = load_config(SynchformerTrainConfig, flags.config, flags.overrides)
        config.check()
        accelerator = make_accelerator(
            config.output, mixed_precision=flags.mixed_precision, trackers=flags.tracker
        )
        best = trainers[config.kind](config, accelerator)
        accelerator.print(f"best network: {best}")
        accelerator.end_training()

    return run_job(job)


if __name__ == "__main__":
    leave(main())
