"""A real Slurm of three nodes on this machine, seen from the tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("slurm_lab.sh")
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
POLL_S = 0.2
WRAPPER = "launch/child.py"


@dataclass
class Lab:
    """A running cluster of nodes n1, n2 and n3, each with two CPUs and a network of its own."""

    env: dict[str, str]
    folder: Path

    def command(self, *words: str, **variables: str) -> str:
        env = self.env | variables
        return subprocess.run(words, env=env, cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    def submit(self, script: str, *words: str, **variables: str) -> Job:
        """sbatch, from the project's root. Words that start with - are sbatch's, as the scripts have it."""
        options = [word for word in words if word.startswith("-")]
        settings = [word for word in words if not word.startswith("-")]
        command = ["sbatch", "--parsable", f"--output={self.folder}/%j.out", *options, script, *settings]
        return Job(self, self.command(*command, **variables))

    def is_healthy(self, url: str) -> bool:
        """Whether a server answers GET /health. The nodes' names are known to the nodes alone."""
        hosts = (Path(self.env["SLURM_LAB"]) / "hosts").read_text().splitlines()
        addresses = {name: address for address, name in map(str.split, hosts)}
        server = urlsplit(url)
        connection = HTTPConnection(addresses[server.hostname], server.port, timeout=5)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()


@dataclass
class Job:
    lab: Lab
    id: str

    def field(self, name: str) -> str:
        shown = self.lab.command("scontrol", "show", "job", "-o", self.id)
        return re.search(rf"\b{name}=(\S*)", shown)[1]

    @property
    def state(self) -> str:
        return self.field("JobState")

    @property
    def output(self) -> str:
        path = self.lab.folder / f"{self.id}.out"
        return path.read_text(errors="replace") if path.exists() else ""

    def wait(self, within_s: float, *states: str) -> str:
        """Until the job is in one of the states; by default, one that it stays in."""
        self.until(lambda: self.state in (states or ENDED), within_s, " or ".join(states or ENDED))
        return self.state

    def until(self, happened: Callable[[], object], within_s: float, what: str, after_end: bool = False) -> None:
        """Polls; fails with the job's log when the time is up, or the job ends first (unless `after_end`)."""
        deadline = time.monotonic() + within_s
        while not happened():
            over = time.monotonic() > deadline
            if over or (not after_end and self.state in ENDED and not happened()):
                why = f"not within {within_s:.0f} s" if over else f"the job is {self.state}"
                raise AssertionError(f"waited for {what}: {why}\n{self.output[-6000:]}")
            time.sleep(POLL_S)

    def restart(self) -> None:
        """Starts a requeued job, which Slurm would hold back for two minutes.

        Not at once: in the second of the requeue, a node still takes the job's credential for revoked.
        """
        self.lab.command("scontrol", "update", f"JobId={self.id}", "StartTime=now+3")

    def processes(self) -> list[Process]:
        """Every process of this job's steps and of its batch script."""
        found = (read_process(folder) for folder in Path("/proc").glob("[0-9]*"))
        return [process for process in found if process is not None and process.job == self.id]

    def step(self, name: str) -> list[Process]:
        """The processes of one of its steps, while it runs."""
        shown = self.lab.command("squeue", "--steps", "--noheader", f"--jobs={self.id}", "--format=%i %j")
        ids = dict(reversed(line.split()) for line in shown.splitlines())
        return [process for process in self.processes() if f"{self.id}.{process.step}" == ids.get(name)]

    def kill(self, step: str, *programs: str, **env: str) -> None:
        """kill -9 of what runs in a step with one of `programs` in its command and with these variables; its wrapper
        stays."""
        found = [process for process in self.step(step) if any(name in process.command for name in programs)]
        found = [process for process in found if WRAPPER not in process.command and env.items() <= process.env.items()]
        assert found, f"{step} runs no {' or '.join(programs)}"
        for process in found:
            os.kill(process.pid, signal.SIGKILL)


@dataclass
class Process:
    """What Slurm started, or a child of it."""

    pid: int
    job: str
    step: str  # batch, or a number
    node: str
    command: str  # its words
    env: dict[str, str]


def read_process(folder: Path) -> Process | None:
    """By its control group, where Slurm has them; else by its environment, which a program can overwrite."""
    try:
        command = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        groups = (folder / "cgroup").read_text()
        entries = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    env = dict(entry.partition("=")[::2] for entry in entries)
    if match := re.search(r"/slurm_(\w+)/uid_\d+/job_(\d+)/step_(\w+)", groups):
        node, job, step = match.groups()
    else:
        node, job, step = (env.get(f"SLURM{name}", "") for name in ("D_NODENAME", "_JOB_ID", "_STEP_ID"))
    return Process(int(folder.name), job, step or "batch", node, command, env) if job and node else None


def lab_environment(folder: Path, extra_conf: str = "") -> dict[str, str]:
    return os.environ | {
        "SLURM_LAB": str(folder),
        "SLURM_LAB_NET": "netns",  # loopback is private to each node, as on a cluster
        "SLURM_LAB_NODES": "3",
        "SLURM_LAB_CPUS": "2",
        "SLURM_LAB_EXTRA_CONF": extra_conf,
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
