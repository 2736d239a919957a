#!/usr/bin/env bash
#SBATCH --job-name=grpo_8b
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
# Llama-3.1-8B-Instruct, the paper's main model, for `sbatch slurm/grpo_8b.sh`. Any size: slurm/grpo.sh.
set -Eeuo pipefail
cd "${ALPHAMED_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}"
source slurm/common.sh
train_size 8b "$@"
