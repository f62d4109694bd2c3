"""Parse a Dockerfile, and replay its stages in empty folders, with a virtual environment in place of the base image."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from paths import ROOT

UV = Path(sys.executable).with_name("uv")
# Commands that change the base image, which the replay does not have.
_SKIPPED = ("apt-get", "rm -rf /var/lib/apt", "useradd")


@dataclass
class Stage:
    """One stage of a Dockerfile: its base (an image or an earlier stage) and its other instructions in order."""

    base: str
    name: str
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        return [rest for word, rest in self.instructions if word == instruction]


def instructions(path: Path) -> list[tuple[str, str]]:
    """The lines of a Dockerfile as (instruction, the rest), with continued lines joined."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in filter(str.strip, text.splitlines())]


def parse(path: Path) -> list[Stage]:
    """The stages of a Dockerfile, with the defaults of its ARGs filled in and continued lines joined."""
    arguments, stages = {}, []
    for word, rest in instructions(path):
        if word == "ARG":
            name, _, arguments[name] = rest.partition("=")
        elif word == "FROM":
            base, _, name = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], rest).partition(" AS ")
            stages.append(Stage(base, name))
        else:
            stages[-1].instructions.append((word, rest))
    return stages


@dataclass
class Container:
    """The final stage after a replay."""

    root: Path
    python: Path
    cwd: Path
    entrypoint: list[str]
    cmd: list[str]

    def run(self, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess:
        """Start the entry point with arguments, in the working folder of the image."""
        program, *words = self.entrypoint
        assert program == "python"
        return self.execute([str(self.python), *words, *arguments], timeout)

    def execute(self, command: list[str], timeout: float = 60) -> subprocess.CompletedProcess:
        dropped = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
        environment = {key: value for key, value in os.environ.items() if key not in dropped}
        environment["PATH"] = f"{self.python.parent}:{environment['PATH']}"
        return subprocess.run(
            command, cwd=self.cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )


class _Replay:
    """One stage in a folder of its own; the Python of the image is a virtual environment in it."""

    def __init__(self, folder: Path, shared_packages: bool) -> None:
        self.root, self.cwd, self.shared_packages = folder, folder, shared_packages
        self.python = folder / "opt/venv/bin/python"
        _check([UV, "venv", "--quiet", "--python", sys.executable, folder / "opt/venv"])

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/") if name.startswith("/") else self.cwd / name

    def workdir(self, name: str) -> None:
        self.cwd = self.path(name)
        self.cwd.mkdir(parents=True, exist_ok=True)

    def copy(self, arguments: str, stages: dict[str, "_Replay"]) -> None:
        *sources, target = arguments.split()
        context = ROOT
        if sources[0].startswith("--from="):
            context = stages[sources.pop(0).removeprefix("--from=")].root
        into = self.path(target)
        if target.endswith("/"):
            into.mkdir(parents=True, exist_ok=True)
        for source in (path for pattern in sources for path in _expand(context, pattern)):
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, into, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy(source, into)

    def run(self, commands: str) -> None:
        for command in commands.split("&&"):
            words = shlex.split(command)
            if command.strip().startswith(_SKIPPED) or words[:3] == ["python3", "-m", "venv"]:
                continue
            if words[:2] == ["pip", "wheel"]:
                assert words[-1] == "." and "--no-deps" in words
                out = self.path(words[words.index("--wheel-dir") + 1])
                _check([UV, "build", "--quiet", "--wheel", "--python", sys.executable, "--out-dir", out, self.cwd])
            elif words[:2] == ["pip", "install"]:
                self._install(words[2:])
            else:
                _check(["bash", "-euc", command], cwd=self.cwd, env=os.environ | {"PATH": self._search_path()})

    def _install(self, words: list[str]) -> None:
        options = [word for word in words if word.startswith("--") and word != "--no-cache-dir"]
        targets = [word for word in words if word.startswith("/")]
        assert len(options) + len(targets) + words.count("-r") + words.count("--no-cache-dir") == len(words), words
        if self.shared_packages and "-r" in words:
            site_packages = next(self.root.glob("opt/venv/lib/python*/site-packages"))
            (site_packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
            return
        paths = [path for pattern in targets for path in _expand(self.root, pattern.lstrip("/"))]
        assert paths, f"nothing to install: {words}"
        options = [part for option in options for part in option.split("=")]
        requirements = ["-r"] if "-r" in words else []
        _check([UV, "pip", "install", "--quiet", "--python", self.python, *options, *requirements, *paths])

    def _search_path(self) -> str:
        return f"{self.python.parent}:{os.environ['PATH']}"


def replay(path: Path, folder: Path, shared_packages: bool) -> Container:
    """Carry out the COPY, WORKDIR and RUN instructions of all stages below a folder.

    Args:
        path: the Dockerfile; its build context is the repository.
        folder: an empty folder.
        shared_packages: use the packages of this environment in place of the locked requirements, which takes no time.
    """
    stages = {stage.name: stage for stage in parse(path)}
    replays = {}
    for number, stage in enumerate(stages.values()):
        replays[stage.name] = current = _Replay(folder / f"stage{number}", shared_packages)
        inherited = stages[stage.base].instructions if stage.base in stages else []
        for word, rest in [*inherited, *stage.instructions]:
            if word == "WORKDIR":
                current.workdir(rest)
            elif word == "COPY":
                current.copy(rest, replays)
            elif word == "RUN":
                current.run(rest)
            else:
                assert word in ("ENV", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"), word
    final = [*stages.values()][-1]
    entrypoint, cmd = (_json_list(final, word) for word in ("ENTRYPOINT", "CMD"))
    return Container(current.root, current.python, current.cwd, entrypoint, cmd)


def _json_list(stage: Stage, word: str) -> list[str]:
    (text,) = stage.all(word)
    return re.findall(r'"([^"]*)"', text)


def _expand(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.glob(pattern.lstrip("/")))
    assert found, f"{pattern} is not in {folder}"
    return found


def _check(command: list, **keywords) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500, check=False, **keywords)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
