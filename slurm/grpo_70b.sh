#!/usr/bin/env bash
#SBATCH --job-name=grpo_70b
#SBATCH --nodes=4
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@1800
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm/logs/%x-%j.out
#SBATCH --dependency=singleton
# Llama-3.1-70B-Instruct: four nodes train (TP 8 × PP 4) and serve rollouts, in turn.
set -Eeuo pipefail
cd "${ALPHAMED_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}"
source slurm/common.sh
train grpo_70b "$@"
