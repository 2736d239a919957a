"""GRPO: rollouts from vLLM, rewards from the rule, updates by Megatron, weights back into vLLM after each.

    python recipes/train_grpo.py experiment=tiny
    python recipes/train_grpo.py model.path=... parallel.tensor=2 parallel.pipeline=2 grpo.steps=40

Its components: vLLM servers, the reward server, and the trainer's ranks (alphamed_nemo/grpo/trainer.py has the loop).
Servers whose URLs are set already run and are used as they are.
"""

from __future__ import annotations

from alphamed_nemo.cli.here import check_here
from alphamed_nemo.cli.preflight import check_run
from alphamed_nemo.cli.progress import GrpoProgress, MetricsFollower, Waiting
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.cli.run_start import keep_config, training
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.launch.components import announce_processor, trainer
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import start_servers, wait_ready


def train_grpo(cfg: Config, launcher: Launcher) -> None:
    """Trains to `grpo.steps` in a folder that the caller owns.

    Starts what does not run yet, and leaves the servers running for the caller.
    """
    folder = RunFolder.of(cfg)
    if not cfg.grpo.replay:
        start_servers(cfg, launcher, cfg.model.path)
        wait_ready(launcher)
    with GrpoProgress(cfg.grpo.steps, servers=cfg.rollout.servers) as progress:
        keep_config(cfg)
        launcher.start(trainer(cfg))
        progress.say("starting the trainer, which loads the model and gives its weights to the servers")
        follower = MetricsFollower(folder.metrics)

        def show_new_steps() -> None:
            for row in follower.new_rows():
                progress.update(row)
            progress.still(lambda: f"the trainer: {launcher.doing('trainer')}")

        launcher.wait("trainer", show_new_steps)


@recipe("train_grpo")
def main(cfg: Config) -> None:
    check_here(cfg, check_run(cfg))
    announce_processor(cfg)
    with training(cfg, "train_grpo") as folder, Launcher(folder.logs, Waiting()) as launcher:
        train_grpo(cfg, launcher)


if __name__ == "__main__":
    main()
