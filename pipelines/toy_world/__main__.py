"""Make a small world of video, sound and speech in the layouts of the real data sets: `python -m pipelines.toy_world out=data/toy`.

Below `out`: `audioset/` (videos in which one of 2 or 3 objects sounds), `places_audio/` (pictures with a spoken caption that names two objects)
and `prompted_ade20k/` (held-out pictures with masks, each with a spoken and a sounding prompt); small twins of VGGSound and the localisation sets
beside them (`vggsound/`, `vggss/`, `flickr_soundnet/`, `is3/`, `avsbench/`, `extended_vggss/`, `extended_flickr/`). Every item is a function of
(seed, part, number): the same settings give the same files whatever the number of processes. Media that are there are kept, tables are written last, and
`toy_world.json` says which settings made the folder and how many files it has when finished.
Limits: what toy_scene, toy_sound and toy_speech can draw, play and say. Neither torch nor a graphics card is used.
"""

from __future__ import annotations

import sys

from configs.cli import run
from configs.schema import ToyWorldConfig


def main(config: ToyWorldConfig) -> None:
    """Make what is missing of the world, and print how much there is."""
    from pipelines.toy_world import world

    world.main(config)


if __name__ == "__main__":
    sys.exit(run(ToyWorldConfig, __doc__, main))
