"""buildah with a storage of its own, without a daemon and without namespaces (chroot isolation)."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


class BuildError(Exception):
    """A command of buildah that ended with another status than 0; the text has the end of its output."""


@dataclass
class Buildah:
    folder: Path

    def command(self, *words: str | Path) -> str:
        """The output of `buildah ...` on this storage, which is also in the folder's log while it runs."""
        temporary = self.folder / "tmp"  # where layers lie on their way into an image
        temporary.mkdir(exist_ok=True)
        log = self.folder / "buildah.log"
        with log.open("w") as output:
            env = os.environ | {"TMPDIR": str(temporary)}
            status = subprocess.run(self.words(*words), env=env, stdout=output, stderr=subprocess.STDOUT).returncode
        text = log.read_text(errors="replace")
        if status:
            raise BuildError(f"buildah {' '.join(map(str, words))}\nended with {status}:\n{text[-6000:]}")
        return text

    def words(self, *words: str | Path) -> list[str | Path]:
        return ["buildah", "--root", self.folder / "storage", "--runroot", self.folder / "run", *words]

    def build(self, dockerfile: Path, context: Path, tag: str, *options: str) -> str:
        """Builds the last stage; returns what the build printed. Without --format docker a HEALTHCHECK is dropped."""
        words = ("build", "--isolation=chroot", "--pull-never", "--format=docker", "--layers=false", f"--tag={tag}")
        return self.command(*words, *options, f"--file={dockerfile}", context)

    def container(self, image: str) -> Container:
        return Container(self, self.command("from", "--quiet", "--pull-never", image).strip())

    def remove(self) -> None:
        """Everything: containers, images, mounts and the folder itself, which holds gigabytes."""
        subprocess.run(self.words("rm", "--all"), capture_output=True)
        subprocess.run(self.words("rmi", "--all", "--force"), capture_output=True)
        subprocess.run(
            ["umount", self.folder / "storage" / "overlay"], capture_output=True
        )  # buildah leaves it mounted
        shutil.rmtree(self.folder)


@dataclass
class Container:
    """A working container; commands run with the image's environment and, unless another is named, as its user."""

    buildah: Buildah
    name: str

    def run(self, *words: str, user: str = "", **variables: str) -> str:
        """What the command wrote; raises BuildError where it fails."""
        options = [f"--env={name}={value}" for name, value in variables.items()] + ([f"--user={user}"] if user else [])
        return self.buildah.command("run", "--isolation=chroot", *options, self.name, "--", *words)
