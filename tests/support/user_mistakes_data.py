"""Mistakes of users of the commands that make, check and show data, with the error each of them gives.

An entry is (command, arguments, exit code, message). {w} is the folder of `mistakes_world`; ... at the end of a message
stands for a list of everything that is allowed.
"""

FOLDER, AUDIOSET = "config=configs/build/folder.yaml", "config=configs/download/audioset.yaml"
MINE = f"{FOLDER} source.root={{w}}/mutes out={{w}}/new"

DATA_MISTAKES = [
    # toy_world: wrong key, types, ranges, place
    (
        "toy_world",
        "out={w}/new image_size_px=127",
        2,
        "image_size_px=127 must be even (H.264 stores color at half resolution)",
    ),
    ("toy_world", "out={w}/new fps=0", 2, "fps=0 must be 1 or more (from the command line)"),
    ("toy_world", "out={w}/new prompts=many", 2, "prompts=many: must be a whole number (from the command line)"),
    ("toy_world", "out={w}/new damaged_share=2", 2, "damaged_share=2.0 must be 0 to 1 (from the command line)"),
    ("toy_world", "ot={w}/new", 2, "ot: unknown key 'ot', did you mean out? Allowed here: ..."),
    ("toy_world", "out=", 2, "out= is empty: set the output folder, for example out=data/toy"),
    (
        "toy_world",
        "{w}/new",
        2,
        "got '{w}/new', expected only key=value arguments, on the command line (--help lists the keys)",
    ),
    (
        "toy_world",
        "out={w}/text.wav",
        1,
        "File exists: {w}/text.wav; a file has the name of a folder: choose another folder",
    ),
    # build: source folder
    ("build", f"{FOLDER} source.root={{w}}/nowhere out={{w}}/new", 2, "source.root='{w}/nowhere' is not a folder; ..."),
    (
        "build",
        f"{FOLDER} source.root={{w}}/text.mp4 out={{w}}/new",
        2,
        "source.root='{w}/text.mp4' is not a folder; ...",
    ),
    (
        "build",
        f"{FOLDER} source.root={{w}}/empty out={{w}}/new",
        2,
        "source.root={w}/empty: no video found below it ...",
    ),
    (
        "build",
        "config=configs/build/audioset.yaml source.root={w}/mutes out={w}/new",
        2,
        "{w}/mutes/unbalanced_train_segments.csv: no such table; put the published unbalanced_train_segments.csv "
        "there, or set source.segments to another",
    ),
    (
        "build",
        "config=configs/build/places_audio.yaml source.root={w}/mutes out={w}/new",
        2,
        "{w}/mutes/metadata/train.json: no such table; put the published train.json there, or set "
        "source.segments to another",
    ),
    (
        "build",
        "config=configs/build/vggsound.yaml source.root={w}/mutes out={w}/new",
        2,
        "{w}/mutes/vggsound.csv: no such table; put the published vggsound.csv there, or set source.segments to "
        "another",
    ),
    (
        "build",
        "config=configs/build/audioset.yaml source.root={w}/mutes source.split=test out={w}/new",
        2,
        "source.split='test' is not one of train, balanced_train, eval; or set source.segments=FILE",
    ),
    # build: output folder and settings that do not go together
    (
        "build",
        f"{FOLDER} source.root={{w}}/mutes",
        2,
        "out= is empty: set the folder for the shards, for example out=data/shards/train",
    ),
    (
        "build",
        f"{FOLDER} source.root={{w}}/mutes out={{w}}/text.wav",
        1,
        "File exists: {w}/text.wav; a file has the name of a folder: choose another folder",
    ),
    (
        "build",
        f"{FOLDER} source.root={{w}}/mutes out=nosuch://bucket/train",
        2,
        "nosuch://bucket/train: Protocol not known: nosuch",
    ),
    (
        "build",
        f"{MINE} source.kind=foldr",
        2,
        "source.kind=foldr: allowed are folder, audioset, places_audio, vggsound (from the command line)",
    ),
    (
        "build",
        f"{MINE} source.window_s=60",
        2,
        "source.window_s=60 must be from decode.min_duration_s=0.5 to decode.max_duration_s=30",
    ),
    (
        "build",
        f"{MINE} executor=slice",
        2,
        "executor=slice does not go with slice='': set executor=slice slice=I/N, or slice=finish at the end",
    ),
    (
        "build",
        f"{MINE} executor=slice slice=9/3",
        2,
        "slice='9/3' must be I/N, for example 3/100 (I from 0 to N-1, or from 1 to N), or finish",
    ),
    ("build", f"{MINE} exclude=[nolist.txt]", 2, "exclude='nolist.txt' cannot be read: no such file"),
    (
        "build",
        f"{MINE} append=true",
        2,
        "out={w}/new has no manifest.json: append=true adds to a finished data set; run without it first",
    ),
    ("build", f"{MINE} labels=[dog]", 2, "labels: no row has the label 'dog'"),
    (
        "build",
        "config=configs/train/toy.yaml",
        2,
        "global_batch_size: unknown key 'global_batch_size'. Allowed here: ...",
    ),
    # download
    (
        "download",
        AUDIOSET,
        2,
        "source.root= is empty: set the folder of the data set, for example source.root=data/audioset",
    ),
    (
        "download",
        "config=configs/download/audioset.yml source.root={w}/new",
        2,
        "config=configs/download/audioset.yml: no such file; available: configs/download/ade20k_prompted.yaml, ...",
    ),
    (
        "download",
        "source.root={w}/new",
        2,
        "nothing to download: set config=configs/download/NAME.yaml, or files= or url=",
    ),
    (
        "download",
        f"{AUDIOSET} source.root={{w}}/new slice=3",
        2,
        "slice='3' must be I/N, for example 2/8 (I from 0 to N-1, or from 1 to N)",
    ),
    (
        "download",
        f"{AUDIOSET} source.root={{w}}/new cookies=none.txt",
        2,
        "cookies='none.txt' is not a file of cookies in Netscape format; export one from your browser",
    ),
    # verify
    ("verify", "", 2, "got nothing, expected DIR, on the command line (--help lists the keys)"),
    ("verify", "{w}/nowhere", 2, "{w}/nowhere: no such folder of shards"),
    ("verify", "{w}/text.wav", 2, "{w}/text.wav: no such folder of shards"),
    ("verify", "{w}/mutes", 2, "{w}/mutes: not a folder of shards, it contains neither manifest.json nor a .tar"),
    (
        "verify",
        "{w}/shards {w}/mutes",
        2,
        "got '{w}/shards' '{w}/mutes', expected DIR, on the command line (--help lists the keys)",
    ),
    ("verify", "{w}/shards threads=-1", 2, "threads=-1 must be 0 to 256 (from the command line)"),
    # inspect
    ("inspect", "{w}/nowhere", 2, "{w}/nowhere: no such shard (a file that ends with .tar) or folder of shards"),
    ("inspect", "{w}/text.mp4", 2, "{w}/text.mp4: no such shard (a file that ends with .tar) or folder of shards"),
    ("inspect", "{w}/shards key=nokey", 2, "key=nokey is not in {w}/shards; similar keys: ..."),
    (
        "inspect",
        "{w}/shards html={w}/page.txt",
        2,
        "html={w}/page.txt: must be a file that ends with .html, in an existing folder",
    ),
    (
        "inspect",
        "{w}/shards html={w}/none/page.html",
        2,
        "html={w}/none/page.html: must be a file that ends with .html, in an existing folder",
    ),
    ("inspect", "{w}/shards clips=0", 2, "clips=0 must be 1 to 1000 (from the command line)"),
    # doctor
    (
        "doctor",
        "shard={w}/shards",
        2,
        "shard: unknown key 'shard', did you mean shards? Allowed here: shards (from the command line)",
    ),
    (
        "doctor",
        "{w}/shards",
        2,
        "got '{w}/shards', expected only key=value arguments, on the command line (--help lists the keys)",
    ),
    # stream.index
    ("index", "{w}/nowhere", 2, "{w}/nowhere: no such folder, or no .tar file in it"),
    ("index", "{w}/mutes", 2, "{w}/mutes: no such folder, or no .tar file in it"),
    ("index", "{w}/foreign_cut", 1, "{w}/foreign_cut/train-000000.tar is rejected: the bytes after its last member..."),
    ("index", "{w}/foreign_cut max_member_mb=-1", 2, "max_member_mb=-1.0 must be 0.001 to 67 (from the command line)"),
    ("doctor", "shards={w}/nowhere", 2, "shards={w}/nowhere: no loader worker measured: no such ..."),
    (
        "download",
        f"{AUDIOSET} source.root={{w}}/new source.split=test dry_run=true",
        2,
        "source.split=test: allowed are eval, ...",
    ),
    ("toy_world", "out=/proc/mine/toy", 1, "No such file or directory: /proc/mine; ..."),
]
