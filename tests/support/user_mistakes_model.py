"""Mistakes of users of the commands that train, evaluate and use models, with the error each of them gives.

Entries as in user_mistakes_data.py.
"""

TOY = "config=configs/train/toy.yaml name=mine out={w}/runs steps=1"
TINY = "global_batch_size=2 stream.image_size_px=16 stream.clip_duration_s=0.4"
OWN = f"{TOY} stream.sources=[] stream.sources.mine.shards={{w}}"
EVAL, ABLATE = "config=configs/eval/toy.yaml", "config=configs/ablate/toy.yaml"
UNFINISHED = (
    "{w}/%s has no manifest.json: it is unfinished or not a data set; finish it with python -m pipelines.build ... "
    "out={w}/%s, or index third-party shards with python -m pipelines.stream.index {w}/%s"
)

MODEL_MISTAKES = [
    # train: data that are missing, unfinished, damaged
    ("train", f"{TOY} stream.sources=[]", 2, "stream.sources is empty: set at least one source, such as ..."),
    (
        "train",
        f"{OWN}/nowhere",
        2,
        "{w}/nowhere: no such folder of shards; python -m pipelines.build ... out={w}/nowhere creates it",
    ),
    (
        "train",
        f"{OWN}/text.wav",
        2,
        "{w}/text.wav: no such folder of shards; python -m pipelines.build ... out={w}/text.wav creates it",
    ),
    ("train", f"{OWN}/mutes", 2, UNFINISHED.replace("%s", "mutes")),
    ("train", f"{OWN}/unfinished", 2, UNFINISHED.replace("%s", "unfinished")),
    (
        "train",
        f"{OWN}/shards stream.sources.mine.exclude=[none.txt]",
        2,
        "{w}/shards: exclude='none.txt' cannot be read: no such file",
    ),
    (
        "train",
        f"{TOY} stream.sources.places.weight=1",
        2,
        "stream.sources.2 (places) has no shards: set stream.sources.places.shards=DIR",
    ),
    (
        "train",
        f"{OWN}/shards stream.sources.more.shards={{w}}/shards",
        2,
        "stream.sources.1 (more): {w}/shards is the same data set as {w}/shards of stream.sources.0; set weight= to "
        "draw more of it",
    ),
    (
        "train",
        f"{OWN}/shards {TINY} evaluate.config=nowhere.yaml",
        2,
        "evaluate.config=nowhere.yaml: no such file; available: ...",
    ),
    (
        "train",
        f"{OWN}/shards {TINY} init_checkpoint={{w}}/text.ckpt",
        2,
        "init_checkpoint={w}/text.ckpt: a file, not a folder; ...",
    ),
    # train: keys and values
    ("train", f"{TOY} steps=many", 2, "steps=many: must be a whole number (from the command line)"),
    ("train", f"{TOY} steps=0", 2, "steps=0 must be 1 or more (from the command line)"),
    ("train", f"{TOY} optim.lr=1e", 2, "optim.lr=1e: must be a number (from the command line)"),
    ("train", f"{TOY} overwrite=perhaps", 2, "overwrite=perhaps: must be true or false (from the command line)"),
    ("train", f"{TOY} optm.lr=1", 2, "optm: unknown key 'optm', did you mean optim? Allowed here: ..."),
    (
        "train",
        f"{TOY} tracker=wandbb",
        2,
        "tracker=wandbb: allowed are wandb, tensorboard, none (from the command line)",
    ),
    ("train", f"{TOY} global_batch_size=1", 2, "global_batch_size=1 must be 2 or more (from the command line)"),
    ("train", f"{TOY} stream.num_workers=1000", 2, "stream.num_workers=1000 must be 0 to 256 (from the command line)"),
    (
        "train",
        f"{TOY} stream.audio=log_mel",
        2,
        "stream.audio=log_mel needs an audio encoder on log-mel, model.audio_encoder=mel:NAME, not tiny",
    ),
    ("train", f"{TOY} name=", 2, "name='': must be the name of a folder below out={w}/runs"),
    ("train", f"{TOY} --steps 5", 2, "--steps: settings are written steps=5, without dashes"),
    (
        "train",
        "config=configs/train name=mine",
        2,
        "config=configs/train: is a folder, not a file; available: configs/train/language.yaml, ...",
    ),
    ("train", "config=configs/build/folder.yaml name=mine", 2, "source: unknown key 'source'. Allowed here: ..."),
    ("train", "config={w}/bytes.yaml name=mine", 2, "{w}/bytes.yaml is not readable YAML: ..."),
    ("train", TOY.replace("{w}/runs", "{w}/text.wav"), 1, "Not a directory: {w}/text.wav/mine..."),
    # eval.run: order, model, data
    (
        "eval",
        f"{EVAL} checkpoint=toy out={{w}}/e benchmarks=ade20k_speech,vggss",
        2,
        "benchmarks=ade20k_speech,vggss: must be a list, benchmarks=[ade20k_speech,vggss] (from the command line)",
    ),
    ("eval", f"{EVAL} checkpoint=toy out={{w}}/e video={{w}}/nowhere.mp4", 2, "video={w}/nowhere.mp4: no such file"),
    ("eval", f"{EVAL} checkpoint=toy out={{w}}/e video={{w}}/mutes", 2, "video={w}/mutes: no such file"),
    (
        "eval",
        f"{EVAL} checkpoint=toy out={{w}}/e batch_size=0",
        2,
        "batch_size=0 must be 1 or more (from the command line)",
    ),
    (
        "eval",
        f"{EVAL} video= checkpoint={{w}}/runs/mine out={{w}}/e",
        2,
        "checkpoint={w}/runs/mine: no model found; give ...",
    ),
    (
        "eval",
        f"{EVAL} video= checkpoint={{w}}/damaged_model out={{w}}/e",
        2,
        "checkpoint={w}/damaged_model: model.safetensors does not fit config.json: ...",
    ),
    (
        "eval",
        f"{EVAL} video= checkpoint=model/pretrained/toy out={{w}}/e upsampler=sharp",
        2,
        "upsampler=sharp: allowed are ...",
    ),
    # eval.ablate
    ("ablate", f"{ABLATE} out=", 2, "out= is missing"),
    ("ablate", f"{ABLATE} out={{w}}/a seeds=[]", 2, "seeds=[]: give at least one"),
    ("ablate", f"{ABLATE} out={{w}}/a seeds=[1,1]", 2, "seeds=[1, 1]: a seed is given twice"),
    (
        "ablate",
        f"{ABLATE} out={{w}}/a accelerate=nowhere.yaml",
        2,
        "accelerate=nowhere.yaml: no such file; available: ...",
    ),
    # eval.report compare
    (
        "report",
        "compare {w}/shards",
        2,
        "got 'compare' '{w}/shards', expected COMPARE A B, on the command line (--help lists the keys)",
    ),
    ("report", "compare {w}/shards {w}/empty", 2, "{w}/shards/metrics.json: No such file or directory; give ..."),
    ("report", "diff {w}/shards {w}/shards", 2, "unknown action 'diff', allowed is `compare A B`, on the command line"),
    (
        "report",
        "compare {w}/shards {w}/shards html={w}/x.txt",
        2,
        "html={w}/x.txt: give the name of the page to write, such as compare.html",
    ),
    # eval.render
    ("render", "", 2, "checkpoint= is missing"),
    ("render", "checkpoint=toy out={w}/r.mp4", 2, "give video=, or image= and sound="),
    (
        "render",
        "checkpoint=toy image={w}/text.jpg out={w}/r.png",
        2,
        "image= and sound= belong together; one of them is missing",
    ),
    ("render", "checkpoint=toy video={w}/nowhere.mp4 out={w}/r.mp4", 2, "video={w}/nowhere.mp4: no such file"),
    ("render", "checkpoint=toy video={w}/mutes out={w}/r.mp4", 2, "video={w}/mutes: no such file"),
    (
        "render",
        "checkpoint=toy video={w}/text.mp4 out={w}/text.mp4",
        2,
        "out={w}/text.mp4 is the input video=, which would be overwritten; give another name",
    ),
    (
        "render",
        "checkpoint=toy video={w}/text.mp4 out={w}/r.png",
        2,
        "out={w}/r.png: give the name of the file to write, which ends with .mp4, such as heatmap.mp4",
    ),
    (
        "render",
        "checkpoint={w}/damaged_model video={w}/mutes/mute.mp4 out={w}/r.mp4",
        2,
        "checkpoint={w}/damaged_model: model.safetensors does not fit config.json: ...",
    ),
    # eval.search
    ("search", "", 2, "index= is missing"),
    ("search", "index={w}/i", 2, "one of build=, query= and delete= is needed, got none"),
    (
        "search",
        "index={w}/i query=a.wav delete=b",
        2,
        "one of build=, query= and delete= is needed, got query= and delete=",
    ),
    ("search", "index={w}/i build={w}/shards", 2, "checkpoint= is missing: build= encodes clips with it"),
    ("search", "index={w}/i query=a.wav html={w}/page.txt", 2, "html={w}/page.txt: the name of a page ends in .html"),
    # eval.app, eval.workspace
    ("app", "", 2, "checkpoint= is missing: give toy, a run folder, or an exported folder"),
    ("app", "checkpoint=toy port=99999999", 2, "port=99999999 must be ..."),
    ("workspace", "", 2, "entity= is missing: give the W&B user or team that owns the project"),
    # eval.upsample
    ("upsample", "out={w}/u", 2, "image= is missing"),
    ("upsample", "image={w}/nowhere.jpg out={w}/u checkpoint=toy", 2, "image={w}/nowhere.jpg: no such file"),
    ("upsample", "image={w}/text.jpg out={w}/u", 2, "encoder= checkpoint=: give one of them, such as ..."),
    ("upsample", "image={w}/text.jpg out={w}/u checkpoint=toy", 2, "image={w}/text.jpg is not a complete image ..."),
    (
        "upsample",
        "image={w}/dot.png out={w}/u checkpoint=toy method=sharp",
        2,
        "method=sharp: allowed are ...",
    ),
    # model.export, model.convert
    (
        "export",
        "out={w}/x",
        2,
        "checkpoint= out={w}/x: both are required, a run folder or checkpoint and the folder to write",
    ),
    (
        "export",
        "checkpoint={w}/damaged_model out={w}/x",
        2,
        "checkpoint={w}/damaged_model: model.safetensors is damaged ...",
    ),
    ("convert", "out={w}/x", 2, "source='': no such file; give a published .ckpt, .pth or .safetensors"),
    (
        "convert",
        "source={w}/nowhere.ckpt out={w}/x",
        2,
        "source='{w}/nowhere.ckpt': no such file; give a published .ckpt, .pth or .safetensors",
    ),
    (
        "convert",
        "source={w}/mutes out={w}/x",
        2,
        "source='{w}/mutes': no such file; give a published .ckpt, .pth or .safetensors",
    ),
    ("convert", "source={w}/text.ckpt out=", 2, "out= is empty: give the folder to write the model to"),
]
