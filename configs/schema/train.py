"""Settings of `train.py`; its sections `stream`, `model`, `loss` and `optim` are in files of these names."""

from dataclasses import dataclass
from typing import Literal

from configs.field import MAX_SEED, field
from configs.schema.loss import LossConfig
from configs.schema.model import ModelConfig
from configs.schema.optim import OptimConfig
from configs.schema.stream import StreamConfig


@dataclass
class CheckpointConfig:
    every_steps: int = field(1000, "steps between checkpoints", "steps", min=1)
    keep_last: int = field(3, "number of latest checkpoints to keep", min=1)
    keep_every_n_steps: int = field(0, "keep checkpoints at multiples of this too; 0: no others", "steps", min=0)
    best_metric: str = field(
        "",
        "keep the checkpoint with the maximum of this evaluation metric too, linked as checkpoints/best; empty: none",
    )
    upload: Literal["none", "last", "best"] = field(
        "none",
        "model that a finished run adds to its W&B artifact (tracker=wandb), which always lists the files' SHA-256",
    )


@dataclass
class EvaluateConfig:
    config: str = field("", "YAML file of eval.run for periodic evaluation, such as configs/eval/toy.yaml; empty: none")
    every_steps: int = field(1000, "steps between evaluations; the last step is evaluated too", "steps", min=1)


@dataclass
class TrainConfig:
    name: str = field("run", "name of the run: its folder below out")
    out: str = field("runs", "folder of runs, shared by all machines of a run")
    overwrite: bool = field(
        False,
        "set an existing run of this name aside, as NAME.1, and start anew; a preempted run is resumed all the same",
    )
    allow_changes: list[Literal["steps", "optim", "loss", "stream.augment"]] = field(
        list,
        "settings in which a resumed run may differ from its checkpoint, such as steps, to prolong a run with a cosine "
        "schedule: its learning rate then jumps to the longer schedule",
    )
    seed: int = field(0, "seed of initial weights, order, augmentation and sampled positions", min=0, max=MAX_SEED)
    global_batch_size: int = field(40, "pairs in one forward pass over all ranks", "pairs", min=2)
    gradient_accumulation_steps: int = field(
        1, "batches per optimizer step; negatives come from the same batch only", "batches", min=1
    )
    grad_cache_chunk_size: int = field(
        0,
        "pairs encoded at once on each rank (gradient cache, recomputed in the backward pass); 0: all",
        "pairs",
        min=0,
    )
    frozen_encoder_steps: int = field(
        3000, "first phase: steps that train only projections, logit scale and class vector", "steps", min=0
    )
    steps: int = field(1000001, "total number of steps of both phases", "steps", min=1)
    init_checkpoint: str = field(
        "", "run, step or from_pretrained folder for the initial weights (averaged ones if stored); empty: none"
    )
    init_exclude: list[str] = field(
        list, "parameter name prefixes that init_checkpoint leaves as built; all others must be present and fit"
    )
    compile: bool = field(
        False, "compile the encoders with torch.compile (needs a C++ compiler); faster on GPUs after about a minute"
    )
    time_limit_min: float = field(
        0.0,
        "time after which the run saves and exits, to be requeued; 0: shortly before SLURM_JOB_END_TIME only",
        "min",
        min=0,
        max=1e7,
    )
    distributed_timeout_s: float = field(
        600.0, "time a process waits for another one before the run fails", "s", min=1, max=1e7
    )
    log_every_steps: int = field(10, "steps between lines of history.jsonl", "steps", min=1)
    tracker: Literal["wandb", "tensorboard", "none"] = field(
        "wandb", "experiment tracker; wandb runs offline without a key"
    )
    nonfinite_loss_action: Literal["stop", "skip"] = field(
        "stop", "action on a NaN or infinite loss; stop: the run; skip: the step (stops after 10 in a row)"
    )
    stream: StreamConfig = field(StreamConfig, "training data")
    model: ModelConfig = field(ModelConfig, "model")
    loss: LossConfig = field(LossConfig, "objective and the weights of its terms")
    optim: OptimConfig = field(OptimConfig, "optimizer")
    evaluate: EvaluateConfig = field(EvaluateConfig, "evaluation during training")
    checkpoint: CheckpointConfig = field(CheckpointConfig, "checkpoints")
