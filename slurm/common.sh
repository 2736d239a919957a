# shellcheck shell=bash
# What the sbatch scripts share, sourced from the project's root. Nothing of a site is in here: see site.env.example.
#
#   train EXPERIMENT [SETTING=VALUE ...]      one attempt of a GRPO run (supervise.sh)
#   train_size SIZE [SETTING=VALUE ...]       the same for a size of slurm/sizes
#   run_recipe NAME [SETTING=VALUE ...]       one stage, as one step on one node
#
# They submit themselves where there is no job: `slurm/grpo.sh 8b --time=08:00:00 grpo.steps=100`. Words that start
# with - go to sbatch, the others to the recipe. --dry-run prints what a job would run, and submits nothing.

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

size_options() { # SIZE: fills SIZE_OPTIONS with what sbatch is asked for
    local size nodes limit lead _ known=()
    SIZE_OPTIONS=()
    while read -r size nodes limit lead _; do
        if [[ -z $size || $size == \#* ]]; then continue; fi
        known+=("$size")
        if [[ $size == "${1:-}" ]]; then
            SIZE_OPTIONS=("--nodes=$nodes" "--time=$limit" "--signal=B:USR1@$lead")
        fi
    done <slurm/sizes
    if ((${#SIZE_OPTIONS[@]} == 0)); then die 2 "found size ${1@Q}, expected one of ${known[*]} (slurm/sizes)"; fi
}

submit() { # SCRIPT [WORD ...]
    local script=$1 word options=() settings=()
    shift
    check_mounts
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

dry_run() { # SCRIPT EXPERIMENT STAGE [WORD ...]: EXPERIMENT may be empty; STAGE is a recipe's name, empty for training
    local script=$1 experiment=${2:+experiment=$2} stage=$3 word nodes gpus partition=${SBATCH_PARTITION:-} settings=()
    local limit signal
    local command=("$PYTHON" -m alphamed_nemo.launch.slurm)
    nodes=$(header "$script" nodes) gpus=$(header "$script" gpus-per-node)
    limit=$(header "$script" time) signal=$(header "$script" signal)
    shift 3
    for word in "$@"; do
        case $word in
            --nodes=*) nodes=${word#*=} ;;
            --gpus-per-node=*) gpus=${word#*=} ;;
            --time=*) limit=${word#*=} ;;
            --signal=*) signal=${word#*=} ;;
            --partition=*) partition=${word#*=} ;;
            -*) ;;
            experiment=*) experiment=$word ;;
            *) settings+=("$word") ;;
        esac
    done
    ALPHAMED_NODES=$(seq --separator=' ' --format='node%g' "$nodes")
    ALPHAMED_GPUS_PER_NODE=${ALPHAMED_GPUS_PER_NODE:-${gpus##*:}} # --gpus-per-node=h100:8 names the card, too
    ALPHAMED_GPUS_PER_NODE=${ALPHAMED_GPUS_PER_NODE:-0}
    if [[ $gpus == *:* ]]; then ALPHAMED_GPU_TYPE=${gpus%:*}; fi
    if [[ -z ${ALPHAMED_GPU_TYPE:-} ]]; then
        ALPHAMED_GPU_TYPE=$({ sinfo --noheader --format=%G ${partition:+"--partition=$partition"} 2>/dev/null || true; } | card)
    fi
    ALPHAMED_CPUS_PER_NODE=$({ sinfo --noheader --format=%c 2>/dev/null || echo 1; } | tr -d '+' | sort -n | head -n 1)
    ALPHAMED_ATTEMPT=JOB-0 ALPHAMED_PORT=$PORT_BASE ALPHAMED_DRY_RUN=1 ALPHAMED_STAGE=$stage
    export ALPHAMED_NODES ALPHAMED_GPUS_PER_NODE ALPHAMED_GPU_TYPE ALPHAMED_CPUS_PER_NODE
    export ALPHAMED_ATTEMPT ALPHAMED_PORT ALPHAMED_DRY_RUN ALPHAMED_STAGE
    make_keys
    container_options
    if ((${#CONTAINER[@]})); then command=(srun --nodes=1 --ntasks=1 --time=10 "$(exported 0)" "${CONTAINER[@]}" "${command[@]}"); fi
    "${command[@]}" ${experiment:+"$experiment"} "${settings[@]}"
    say "not submitted: ${SBATCH_ACCOUNT:+account $SBATCH_ACCOUNT, }${partition:+partition $partition, }$limit hours$(
        if [[ -z $stage ]]; then echo " with --signal=$signal"; fi)"
}

card() { # of the GRES that Slurm prints for nodes, such as gpu:h100:8(S:0-1): h100; nothing where it has no name
    sed -n 's/.*gpu:\([^:,(]*[^0-9:,(][^:,(]*\):[0-9].*/\1/p' | sort -u | head -n 1
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
    export ALPHAMED_GPU_TYPE=${ALPHAMED_GPU_TYPE:-$(scontrol show node --oneliner "${HOSTS[0]}" | sed 's/.*Gres=//' | card)}
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

check_mounts() { # Pyxis separates mounts by commas and colons, and hands them on by spaces; none can be escaped
    if [[ -z ${ALPHAMED_IMAGE:-} ]]; then return; fi
    if [[ $PWD =~ [,:[:space:]] ]]; then
        die 2 "the project's folder is ${PWD@Q}: a container cannot mount a path with a comma, a colon or a space; move it"
    fi
    if [[ ${ALPHAMED_MOUNTS:-} =~ [[:space:]] ]]; then
        die 2 "ALPHAMED_MOUNTS: found ${ALPHAMED_MOUNTS@Q}, expected SRC:DST[,SRC:DST...] without spaces: mount a folder above"
    fi
}

container_options() { # fills CONTAINER: Pyxis's options, the same for every step; empty without an image
    CONTAINER=()
    if [[ -z ${ALPHAMED_IMAGE:-} ]]; then return; fi
    check_mounts
    local mounts=$PWD:$PWD${ALPHAMED_MOUNTS:+,$ALPHAMED_MOUNTS} source
    if [[ $ALPHAMED_IMAGE == /* && ! -e $ALPHAMED_IMAGE ]]; then
        die 2 "ALPHAMED_IMAGE: no file $ALPHAMED_IMAGE; see docs/slurm.md for making it"
    fi
    for source in ${mounts//,/ }; do
        if [[ ! -e ${source%%:*} ]]; then die 2 "ALPHAMED_MOUNTS: nothing at ${source%%:*} to mount"; fi
    done
    # The checkout is what runs, not the image's copy of it.
    export PYTHONPATH=$PWD HF_HUB_OFFLINE=1
    set_caches "${ALPHAMED_CACHE:-/tmp/cache}"
    # shellcheck disable=SC2054
    CONTAINER=(
        --container-image="$ALPHAMED_IMAGE"
        --container-mounts="$mounts"
        --container-workdir="$PWD"
        --no-container-mount-home
        # An image's own value wins over the job's unless the name is listed here.
        --container-env="PYTHONPATH,HF_HUB_OFFLINE,NVIDIA_VISIBLE_DEVICES,$(IFS=, && echo "${!CACHES[*]}")"
    )
}

# Below $HOME, where the libraries below would write when they are imported or first compile a kernel, nothing can be
# written in a container: the image's root is read-only. Each gets this folder of the cache instead.
declare -A CACHES=(
    [XDG_CACHE_HOME]="" # whatever follows the convention: matplotlib, torch's extensions, W&B
    [XDG_CONFIG_HOME]=/config
    [CUDA_CACHE_PATH]=/cuda # the driver's compiler
    [FLASHINFER_WORKSPACE_BASE]=/flashinfer
    [HF_HOME]=/huggingface
    [NUMBA_CACHE_DIR]=/numba
    [TORCHINDUCTOR_CACHE_DIR]=/inductor
    [TRITON_CACHE_DIR]=/triton
    [TVM_FFI_CACHE_DIR]=/tvm-ffi
    [VLLM_CACHE_ROOT]=/vllm
    [VLLM_CONFIG_ROOT]=/config/vllm
)

set_caches() { # FOLDER
    local name
    for name in "${!CACHES[@]}"; do export "$name=$1${CACHES[$name]}"; done
}

import_container() { # unpacks the image once on every node; later steps name what is there
    container_options
    if ((${#CONTAINER[@]} == 0)); then return; fi
    # Pyxis keeps names beyond the job on some sites, so a name is never used twice.
    CONTAINER+=(--container-name="alphamed-$ALPHAMED_ATTEMPT")
    on_each_node import true || die 1 "the image could not be unpacked on every node; the reason is above"
    CONTAINER=("${CONTAINER[@]:1}")
}

exported() { # GPUS: srun's option. Images of CUDA ask for all GPUs, also in a step that Slurm gives none
    if (($1)); then echo --export=ALL,NVIDIA_VISIBLE_DEVICES=all; else echo --export=ALL,NVIDIA_VISIBLE_DEVICES=void; fi
}

on_each_node() { # NAME COMMAND...
    local name=$1
    shift
    srun --job-name="$name" --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 \
        --gpus-per-node=0 --overlap --mem=0 "$(exported 0)" --input=none --kill-on-bad-exit=1 "${CONTAINER[@]}" "$@"
}

on_first_node() { # NAME COMMAND...: with all of its CPUs and GPUs
    local name=$1
    shift
    srun --job-name="$name" --nodes=1 --nodelist="${HOSTS[0]}" --ntasks=1 --ntasks-per-node=1 \
        --gpus-per-node="$GPUS" --overlap --mem=0 --cpu-bind=none "$(exported "$GPUS")" --input=none "${CONTAINER[@]}" "$@"
}

run_recipe() { # NAME [WORD ...]
    local name=$1
    shift
    if [[ " $* " == *" --dry-run "* ]]; then
        dry_run "$SCRIPT" '' "$name" "$@"
        return
    fi
    if [[ -z ${SLURM_JOB_ID:-} ]]; then submit "$SCRIPT" "$@"; fi
    describe_job
    import_container
    on_first_node "$name" "$PYTHON" "recipes/$name.py" "$@"
}

train() { # EXPERIMENT [WORD ...]
    local experiment=$1 word
    shift
    for word in "$@"; do
        if [[ $word == --dry-run ]]; then
            dry_run "$SCRIPT" "$experiment" '' "$@"
            return
        fi
        if [[ $word == experiment=* ]]; then experiment=; fi
    done
    if [[ -z ${SLURM_JOB_ID:-} ]]; then submit "$SCRIPT" "$@"; fi
    source slurm/supervise.sh
    describe_job
    attempt ${experiment:+"experiment=$experiment"} "$@"
}

train_size() { # SIZE [WORD ...]
    local size=${1:-}
    size_options "$size"
    shift
    if [[ " $* " == *" --dry-run "* ]]; then
        train "grpo_$size" "${SIZE_OPTIONS[@]}" "$@"
    elif [[ -z ${SLURM_JOB_ID:-} ]]; then
        submit slurm/grpo.sh "--job-name=grpo_$size" "${SIZE_OPTIONS[@]}" "$size" "$@"
    else
        train "grpo_$size" "$@"
    fi
}
