# shellcheck shell=bash
# What the sbatch scripts share, sourced from the project's root. Nothing of a site is in here: see site.env.example.
#
#   train EXPERIMENT [SETTING=VALUE ...]      one attempt of a GRPO run (supervise.sh)
#   run_recipe NAME [SETTING=VALUE ...]       one stage, as one step on one node
#
# Both submit themselves where there is no job: `slurm/grpo_8b.sh --time=08:00:00 grpo.steps=100`. Words that start
# with - go to sbatch, the others to the recipe. --dry-run prints what a training job would run, and submits nothing.

if [[ -f ${ALPHAMED_SITE:=slurm/site.env} ]]; then
    set -a
    # shellcheck source=/dev/null
    source "$ALPHAMED_SITE"
    set +a
fi

SCRIPT=slurm/$(basename "$0") # as it is called from the project's root

say() { printf '%(%F %T)T %s\n' -1 "$*" >&2; }

die() { # STATUS MESSAGE
    say "error: $2"
    exit "$1"
}

# --- outside of a job ---

submit() { # SCRIPT [WORD ...]
    local script=$1 word options=() settings=()
    shift
    if ! command -v sbatch >/dev/null; then die 2 "no sbatch here; submit on a machine that has Slurm's commands"; fi
    for word in "$@"; do
        case $word in
            -*) options+=("$word") ;;
            *) settings+=("$word") ;;
        esac
        # One name for one run folder: --dependency=singleton then keeps two jobs out of the same run.
        if [[ $word =~ ^(run.name|experiment/study)=(.*) ]]; then options+=("--job-name=${BASH_REMATCH[2]}"); fi
    done
    exec sbatch "${options[@]}" "$script" "${settings[@]}"
}

dry_run() { # SCRIPT EXPERIMENT [WORD ...]
    local script=$1 word nodes gpus settings=()
    nodes=$(header "$script" nodes) gpus=$(header "$script" gpus-per-node)
    settings=("experiment=$2")
    shift 2
    for word in "$@"; do
        case $word in
            --nodes=*) nodes=${word#*=} ;;
            --gpus-per-node=*) gpus=${word#*=} ;;
            -*) ;;
            experiment=*) settings[0]=$word ;;
            *) settings+=("$word") ;;
        esac
    done
    ALPHAMED_NODES=$(seq --separator=' ' --format='node%g' "$nodes")
    ALPHAMED_GPUS_PER_NODE=${gpus:-0}
    ALPHAMED_CPUS_PER_NODE=$({ sinfo --noheader --format=%c 2>/dev/null || echo 1; } | tr -d '+' | sort -n | head -n 1)
    ALPHAMED_ATTEMPT=JOB-0 ALPHAMED_PORT=$PORT_BASE ALPHAMED_DRY_RUN=1
    export ALPHAMED_NODES ALPHAMED_GPUS_PER_NODE ALPHAMED_CPUS_PER_NODE ALPHAMED_ATTEMPT ALPHAMED_PORT ALPHAMED_DRY_RUN
    make_keys
    container_options
    if ((${#CONTAINER[@]})); then
        srun --nodes=1 --ntasks=1 --time=10 "${CONTAINER[@]}" "$PYTHON" -m alphamed_nemo.launch.slurm "${settings[@]}"
    else
        "$PYTHON" -m alphamed_nemo.launch.slurm "${settings[@]}"
    fi
    say "not submitted: ${SBATCH_ACCOUNT:+account $SBATCH_ACCOUNT, }${SBATCH_PARTITION:+partition $SBATCH_PARTITION, }$(
        header "$script" time) hours with --signal=$(header "$script" signal)"
}

header() { # SCRIPT OPTION: its value in the #SBATCH lines
    sed -n "s/^#SBATCH --$2=//p" "$1"
}

# --- inside of a job ---

PORT_BASE=${ALPHAMED_PORT_BASE:-20000}
if [[ -n ${ALPHAMED_PYTHON:-} ]]; then
    PYTHON=$ALPHAMED_PYTHON
elif [[ -z ${ALPHAMED_IMAGE:-} && -x .venv/bin/python ]]; then
    PYTHON=.venv/bin/python # made by `./run setup`
else
    PYTHON=python
fi

describe_job() { # what alphamed_nemo/launch/slurm.py reads
    mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
    export ALPHAMED_NODES="${HOSTS[*]}"
    GPUS=${ALPHAMED_GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-0}}
    export ALPHAMED_GPUS_PER_NODE=$GPUS
    export ALPHAMED_CPUS_PER_NODE=$SLURM_CPUS_ON_NODE
    export ALPHAMED_ATTEMPT=$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}
    export ALPHAMED_PORT=$((PORT_BASE + SLURM_JOB_ID % 1000 * 4))
    make_keys
}

make_keys() { # new ones for each attempt; only in the environment, never in a file or an argument
    ALPHAMED_ROLLOUT_API_KEY=$(head -c 32 /dev/urandom | base64)
    ALPHAMED_REWARD_API_KEY=$(head -c 32 /dev/urandom | base64)
    export ALPHAMED_ROLLOUT_API_KEY ALPHAMED_REWARD_API_KEY
}

container_options() { # fills CONTAINER: Pyxis's options, the same for every step; empty without an image
    CONTAINER=()
    if [[ -z ${ALPHAMED_IMAGE:-} ]]; then return; fi
    local mounts=$PWD:$PWD${ALPHAMED_MOUNTS:+,$ALPHAMED_MOUNTS} source
    if [[ $ALPHAMED_IMAGE == /* && ! -e $ALPHAMED_IMAGE ]]; then
        die 2 "ALPHAMED_IMAGE: no file $ALPHAMED_IMAGE; see docs/slurm.md for making it"
    fi
    for source in ${mounts//,/ }; do
        if [[ ! -e ${source%%:*} ]]; then die 2 "ALPHAMED_MOUNTS: nothing at ${source%%:*} to mount"; fi
    done
    # The image's root is read-only and its /tmp is empty: what is compiled at run time is kept there, or where the
    # site says. The checkout is what runs, not the image's copy of it.
    export PYTHONPATH=$PWD XDG_CACHE_HOME=${ALPHAMED_CACHE:-/tmp/cache} HF_HUB_OFFLINE=1
    export TRITON_CACHE_DIR=$XDG_CACHE_HOME/triton TORCHINDUCTOR_CACHE_DIR=$XDG_CACHE_HOME/inductor
    # shellcheck disable=SC2054
    CONTAINER=(
        --container-image="$ALPHAMED_IMAGE"
        --container-mounts="$mounts"
        --container-workdir="$PWD"
        --no-container-mount-home
        # An image's own value wins over the job's unless the name is listed here.
        --container-env=PYTHONPATH,XDG_CACHE_HOME,HF_HUB_OFFLINE,TRITON_CACHE_DIR,TORCHINDUCTOR_CACHE_DIR
    )
}

import_container() { # unpacks the image once on every node; later steps name what is there
    container_options
    if ((${#CONTAINER[@]} == 0)); then return; fi
    # Pyxis keeps names beyond the job on some sites, so a name is never used twice.
    CONTAINER+=(--container-name="alphamed-$ALPHAMED_ATTEMPT")
    on_each_node import true || die 1 "the image could not be unpacked on every node; the reason is above"
    CONTAINER=("${CONTAINER[@]:1}")
}

on_each_node() { # NAME COMMAND...
    local name=$1
    shift
    srun --job-name="$name" --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        --gpus-per-node=0 --overlap --mem=0 --export=ALL --input=none --kill-on-bad-exit=1 "${CONTAINER[@]}" "$@"
}

on_first_node() { # NAME COMMAND...: with all of its CPUs and GPUs
    local name=$1
    shift
    srun --job-name="$name" --nodes=1 --nodelist="${HOSTS[0]}" --ntasks=1 --ntasks-per-node=1 \
        --gpus-per-node="$GPUS" --overlap --mem=0 --cpu-bind=none --export=ALL --input=none "${CONTAINER[@]}" "$@"
}

run_recipe() { # NAME [WORD ...]
    local name=$1
    shift
    if [[ -z ${SLURM_JOB_ID:-} ]]; then submit "$SCRIPT" "$@"; fi
    describe_job
    import_container
    on_first_node "$name" "$PYTHON" "recipes/$name.py" "$@"
}

train() { # EXPERIMENT [WORD ...]
    local experiment=$1 word
    shift
    export ALPHAMED_ROLLOUT_NODES=${ALPHAMED_ROLLOUT_NODES:-1}
    for word in "$@"; do
        if [[ $word == --dry-run ]]; then
            dry_run "$SCRIPT" "$experiment" "$@"
            return
        fi
        if [[ $word == experiment=* ]]; then experiment=; fi
    done
    if [[ -z ${SLURM_JOB_ID:-} ]]; then submit "$SCRIPT" "$@"; fi
    source slurm/supervise.sh
    describe_job
    attempt ${experiment:+"experiment=$experiment"} "$@"
}
