#!/usr/bin/env bash
#SBATCH --job-name=tiny
#SBATCH --nodes=2
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time=01:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm/logs/%x-%j.out
#SBATCH --dependency=singleton
# The miniature on two CPU nodes: four ranks (TP 2 × PP 2) over both, vLLM and the rewards on the first;
# rollout.servers=2: vLLM on both.
set -Eeuo pipefail
cd "${ALPHAMED_HOME:-${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}}"
source slurm/common.sh
export ALPHAMED_GPUS_PER_NODE=0 CUDA_VISIBLE_DEVICES='' # an exclusive job is given a node's GPUs unasked
train tiny "$@"
