"""The settings of every command, as dataclasses: one file per command or section. YAML files hold differences only."""

from configs.schema.ablate import AblateConfig, VariantConfig
from configs.schema.app import AppConfig
from configs.schema.build import BuildConfig, DecodeConfig, SourceConfig
from configs.schema.convert import ConvertConfig, ExportConfig
from configs.schema.download import ByHandConfig, DownloadConfig, DownloadFileConfig
from configs.schema.eval import (
    CompareConfig,
    DataConfig,
    EvalConfig,
    NoSettings,
    RenderConfig,
    RequirementConfig,
)
from configs.schema.inspect import DoctorConfig, IndexConfig, InspectConfig, VerifyConfig
from configs.schema.loss import LossConfig
from configs.schema.model import ModelConfig
from configs.schema.optim import OptimConfig, ParameterGroupConfig
from configs.schema.search import SearchConfig
from configs.schema.stream import AugmentConfig, StreamConfig, StreamSourceConfig
from configs.schema.toy_world import ToyWorldConfig
from configs.schema.train import CheckpointConfig, EvaluateConfig, TrainConfig
from configs.schema.upsample import UpsampleConfig
from configs.schema.workspace import WorkspaceConfig

__all__ = [
    "AblateConfig",
    "AppConfig",
    "AugmentConfig",
    "BuildConfig",
    "ByHandConfig",
    "CheckpointConfig",
    "CompareConfig",
    "ConvertConfig",
    "DataConfig",
    "DecodeConfig",
    "DoctorConfig",
    "DownloadConfig",
    "DownloadFileConfig",
    "EvalConfig",
    "EvaluateConfig",
    "ExportConfig",
    "IndexConfig",
    "InspectConfig",
    "LossConfig",
    "ModelConfig",
    "NoSettings",
    "OptimConfig",
    "ParameterGroupConfig",
    "RenderConfig",
    "RequirementConfig",
    "SearchConfig",
    "SourceConfig",
    "StreamConfig",
    "StreamSourceConfig",
    "ToyWorldConfig",
    "TrainConfig",
    "UpsampleConfig",
    "VariantConfig",
    "VerifyConfig",
    "WorkspaceConfig",
]
