"""Generate a small synthetic data set of video, sound and speech: `python -m pipelines.toy_world out=data/toy`

Writes the layouts of the real data sets below `out`: `audioset/` (videos in which one of 2 or 3 objects makes a
sound), `places_audio/` (images with a spoken caption that names two objects), `prompted_ade20k/` (held-out images with
masks, each with a speech and a sound prompt), and small synthetic versions of VGGSound and of the localization
benchmarks (`vggsound/`, `vggss/`, `flickr_soundnet/`, `is3/`, `avsbench/`, `extended_vggss/`, `extended_flickr/`).
Every item is a function of (seed, part, number), so the number of processes does not change the files. The command is
resumable: existing media files are kept and tables are written last. `toy_world.json` records the settings and the
number of files.
Limits: flat shapes, 24 classes, English speech. Neither torch nor a GPU is used.
"""

import sys

from configs.cli import run
from configs.schema import ToyWorldConfig
from pipelines.toy_world.world import main

if __name__ == "__main__":
    sys.exit(run(ToyWorldConfig, __doc__, main))
