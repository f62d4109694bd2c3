"""Small tables in the published formats, and the source settings that read them."""

import json

from configs.schema import SourceConfig

SEGMENTS = """# Segments csv created Sun Mar  5 10:54:25 2017
# num_ytids=3, num_segs=3, num_unique_labels=2, num_positive_labels=4
# YTID, start_seconds, end_seconds, positive_labels
--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"
--aE2O5G5WE, 0.000, 10.000, "/m/03fwl"
AAAAAAAAAAA, 12.500, 20.000, "/m/09x0r"
"""

VGGSOUND = """---g-f_I2yQ,1,people marching,test
--0PQM4-hqg,30,waterfall burbling,train
-0000000000,12.5,"dog barking, far away",train
-1111111111, 7, "people ""eating"" soup", train
"""


def places_audio_source(root, **changes):
    items = [
        {"uttid": "S1-u_1", "speaker": "S1", "asr_text": "a red boat", "wav": "wavs/1/a.wav", "image": "b/boat/1.jpg"}
    ]
    content = {
        "image_base_path": "/data/them/places205",
        "audio_base_path": "/data/them/audio",
        "data": items,
    } | changes
    (root / "metadata").mkdir(exist_ok=True)
    (root / "metadata/val.json").write_text(json.dumps(content))
    return SourceConfig(kind="places_audio", root=str(root), split="val")


def vggsound_source(tmp_path, text=VGGSOUND, **changes):
    (tmp_path / "vggsound.csv").write_text(text)
    return SourceConfig(
        **{"kind": "vggsound", "root": str(tmp_path), "split": "train", "media": "v/{id}.mp4"} | changes
    )
