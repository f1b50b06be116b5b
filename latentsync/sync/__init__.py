"""Judges of sync: networks that embed lips and sound in one space, where what belongs together lies close."""

from latentsync.sync.stable_syncnet import StableSyncNet
from latentsync.sync.syncnet import SyncNet
from latentsync.sync.wav2lip_syncnet import Wav2LipSyncNet

__all__ = ["StableSyncNet", "SyncNet", "Wav2LipSyncNet"]
