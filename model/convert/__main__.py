"""Convert a published checkpoint for `from_pretrained`: `python -m model.convert source=denseav_2head.ckpt out=DIR`

Published upsamplers (FeatUp's *_jbu_stack_cocostuff.ckpt and saved implicit models, AnyUp's anyup_*.pth) are recognized
by their weights, which have to be complete; read_upsampler of model.convert.upsampler_file reads the folder.

Reads .ckpt (Lightning; no code in it is run) and .safetensors. Settings are read from hyper_parameters inside a .ckpt,
or from config.json in the folder of a .safetensors; num_heads= replaces the number of heads. Prints the stored weights
that the model does not use. If weights of the model are missing, it prints them, writes nothing and exits with 1.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from configs.cli import run
from configs.errors import UsageError
from configs.schema import ConvertConfig


def main(config: ConvertConfig) -> int:
    """Read, convert, write the folder and print a summary."""
    from model.convert.checkpoint_file import convert_content, read_content
    from model.convert.upsampler_file import find_upsampler
    from model.hub import save_pretrained
    from model.upsamplers.stored import save_upsampler

    if not config.out:
        raise UsageError("out= is empty: give the folder to write the model to")
    content, out = read_content(config.source), Path(config.out)
    if upsampler := find_upsampler(content, config.source):
        out.mkdir(parents=True, exist_ok=True)
        save_upsampler(upsampler, out)
        parameters = sum(tensor.numel() for tensor in upsampler.module.state_dict().values())
        settings = ", ".join(f"{name} {value}" for name, value in upsampler.settings.items())
        _print({"upsampler": f"{upsampler.kind}, {settings}", "weights": f"{parameters:,}", "written": out})
        return 0
    model, model_config, loaded, unused, missing = convert_content(content, config.source, config.num_heads)
    for name in unused:
        print(f"unused   {name}")
    for name in missing:
        print(f"missing  {name}")
    if missing:
        print(f"{len(missing)} weights are not in {config.source}; nothing was written", file=sys.stderr)
        return 1
    weights = model.state_dict()
    out.mkdir(parents=True, exist_ok=True)
    save_pretrained(model, model_config, out)
    lora = f", LoRA of rank {model_config.lora_rank}" if model_config.lora_rank else ""
    parameters = sum(weights[name].numel() for name in loaded)
    _print(
        {
            "image": f"{model_config.image_encoder}{lora}",
            "audio": model_config.audio_encoder,
            "heads": f"{model_config.num_heads}, {model_config.embed_dim} channels in all",
            "weights": f"{parameters:,} in {len(loaded)} tensors, {len(unused)} unused",
            "written": out,
        }
    )
    return 0


def _print(summary: Mapping[str, object]) -> None:
    for name, value in summary.items():
        print(f"{name:<10}{value}")


if __name__ == "__main__":
    sys.exit(run(ConvertConfig, __doc__, main))
