"""Settings of `python -m eval.app`."""

from dataclasses import dataclass

from configs.field import field


@dataclass
class AppConfig:
    checkpoint: str = field("", "model, as for denseav.load: toy, a run folder, ...; several separated by commas")
    index: str = field("", "index of python -m eval.search; adds the search tab")
    upsamplers: str = field(
        "bilinear,bicubic",
        "upsamplers that the page offers, the first one selected: bilinear, bicubic, anyup, folders of trained ones; "
        "separated by commas",
    )
    host: str = field("127.0.0.1", "address to listen on; 0.0.0.0: every network of this machine, without a password")
    port: int = field(7860, "port to listen on", min=1, max=65535)
    jobs: int = field(1, "jobs computed at once, each in a process of its own; they share the cores", min=1, max=64)
    queue_size: int = field(20, "jobs waiting at once; further ones are refused", min=1, max=1000)
    max_file_mb: float = field(200.0, "maximum size of an upload", "MB", min=0.1, max=10000)
    max_duration_s: float = field(120.0, "maximum duration of a video or sound", "s", min=1, max=3600)
    max_megapixels: float = field(25.0, "maximum size of a picture or video frame", "MP", min=0.01, max=200)
    timeout_s: float = field(300.0, "maximum wall-clock time of a job", "s", min=1, max=36000)
    memory_gb: float = field(6.0, "maximum memory of a job, in addition to the models; not limited with CUDA", min=0.1)
    temp: str = field("", "folder for the temporary folder, deleted at exit; empty: that of the system")
    temp_gb: float = field(10.0, "maximum size of the temporary folder; uploads beyond it are refused", "GB", min=0.01)
    keep_minutes: float = field(
        60.0, "uploads and results are deleted after this time, or when the page is closed", "min", min=0.05, max=100000
    )
