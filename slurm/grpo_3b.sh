#!/usr/bin/env bash
#SBATCH --job-name=grpo_3b
#SBATCH --nodes=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=08:00:00
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm/logs/%x-%j.out
#SBATCH --dependency=singleton
# Qwen2.5-3B-Instruct: one node trains (TP 2 × DP 4) and serves rollouts, in turn.
set -Eeuo pipefail
cd "${ALPHAMED_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}"
source slurm/common.sh
train grpo_3b "$@"
