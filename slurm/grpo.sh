#!/usr/bin/env bash
#SBATCH --job-name=grpo
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm/logs/%x-%j.out
#SBATCH --dependency=singleton
# GRPO of any size: `slurm/grpo.sh qwen3_32b [SBATCH OPTIONS] [SETTING=VALUE ...]` submits itself with what slurm/sizes says.
set -Eeuo pipefail
cd "${ALPHAMED_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}"
source slurm/common.sh
train_size "$@"
