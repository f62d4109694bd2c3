"""Convert a published checkpoint for `from_pretrained`: `python -m model.convert source=denseav_2head.ckpt out=DIR`

Reads .ckpt (Lightning; no code in it is run) and .safetensors. Settings are read from hyper_parameters inside a .ckpt,
or from config.json in the folder of a .safetensors; num_heads= replaces the number of heads. Prints the stored weights
that the model does not use. If weights of the model are missing, it prints them, writes nothing and exits with 1.
"""

import sys
from pathlib import Path

from configs.cli import run
from configs.errors import UsageError
from configs.schema import ConvertConfig


def main(config: ConvertConfig) -> int:
    """Read, convert, write the folder and print a summary."""
    from model.convert.checkpoint_file import convert_file
    from model.hub import save_pretrained

    if not config.out:
        raise UsageError("out= is empty: give the folder to write the model to")
    model, model_config, loaded, unused, missing = convert_file(config.source, config.num_heads)
    for name in unused:
        print(f"unused   {name}")
    for name in missing:
        print(f"missing  {name}")
    if missing:
        print(f"{len(missing)} weights are not in {config.source}; nothing was written", file=sys.stderr)
        return 1
    out, weights = Path(config.out), model.state_dict()
    out.mkdir(parents=True, exist_ok=True)
    save_pretrained(model, model_config, out)
    lora = f", LoRA of rank {model_config.lora_rank}" if model_config.lora_rank else ""
    parameters = sum(weights[name].numel() for name in loaded)
    summary = {
        "image": f"{model_config.image_encoder}{lora}",
        "audio": model_config.audio_encoder,
        "heads": f"{model_config.num_heads}, {model_config.embed_dim} channels in all",
        "weights": f"{parameters:,} in {len(loaded)} tensors, {len(unused)} unused",
        "written": out,
    }
    for name, value in summary.items():
        print(f"{name:<10}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(run(ConvertConfig, __doc__, main))
