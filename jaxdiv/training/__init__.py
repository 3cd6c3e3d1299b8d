"""Training without an opinion on what is trained: state, loop, checkpoints, metrics files, data parallelism."""

from jaxdiv.training.checkpoint import (
    CheckpointError,
    Restored,
    checkpoint_path,
    checkpoint_steps,
    load_leaves,
    newest_intact_step,
    restore_checkpoint,
    save_checkpoint,
)
from jaxdiv.training.interrupts import Interrupted
from jaxdiv.training.logging import MetricsWriter, read_metrics
from jaxdiv.training.loop import train
from jaxdiv.training.sharding import data_mesh, replicate, shard_batch
from jaxdiv.training.state import TrainState, create_state, ema_decay, ema_update, make_train_step

__all__ = [
    "CheckpointError",
    "Interrupted",
    "MetricsWriter",
    "Restored",
    "TrainState",
    "checkpoint_path",
    "checkpoint_steps",
    "create_state",
    "data_mesh",
    "ema_decay",
    "ema_update",
    "load_leaves",
    "newest_intact_step",
    "make_train_step",
    "read_metrics",
    "replicate",
    "restore_checkpoint",
    "save_checkpoint",
    "shard_batch",
    "train",
]
