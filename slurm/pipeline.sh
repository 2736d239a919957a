#!/usr/bin/env bash
# Submits the whole recipe as a chain of jobs, each starting when the one before has succeeded:
#
#   slurm/pipeline.sh 8b [--from=STAGE] [--dry-run] [SBATCH OPTIONS] [SETTING=VALUE ...]
#
#   label → grpo → convert → evaluate → report, and evaluate_base beside them: the untrained model, for the comparison.
#   Whichever evaluation ends last, the model card that convert has written shows both. --no-base leaves that one out.
#   Sizes are those of slurm/sizes, and tiny. --nodes=N is for the training: the other stages work on one node.
#   Questions come first, where there is a network: `./run prepare_data experiment=grpo_8b`
set -Eeuo pipefail
cd "${ALPHAMED_HOME:-$(dirname "$0")/..}"
source slurm/common.sh

STAGES=(label grpo convert evaluate report)

NAME='' DRY='' BASE=1 GRPO='' SIZE=() OPTIONS=() TRAINING=() SETTINGS=()

main() {
    local size=${1:-} word first=label
    local experiment=grpo_$size
    if [[ $size == tiny ]]; then
        experiment=tiny GRPO=slurm/grpo_tiny.sh
    else
        size_options "$size"
        GRPO=slurm/grpo.sh SIZE=("$size") TRAINING=("${SIZE_OPTIONS[@]}")
    fi
    shift
    NAME=$experiment
    for word in "$@"; do
        case $word in
            --from=*) first=${word#*=} ;;
            --dry-run) DRY=1 ;;
            --no-base) BASE='' ;;
            --nodes=*) TRAINING+=("$word") ;;
            -*) OPTIONS+=("$word") ;;
            *) SETTINGS+=("$word") ;;
        esac
        if [[ $word =~ ^(run.name|experiment/study)=(.*) ]]; then NAME=${BASH_REMATCH[2]}; fi
    done
    if [[ " ${STAGES[*]} " != *" $first "* ]]; then die 2 "--from=$first: there are ${STAGES[*]}"; fi
    if [[ " ${SETTINGS[*]-} " != *" experiment="* ]]; then SETTINGS+=("experiment=$experiment"); fi
    check_mounts
    chain "$first"
}

chain() { # FIRST_STAGE
    local stage script after='' base='' started=''
    if [[ -n $BASE && ($1 == label || $1 == grpo) ]]; then
        # shellcheck disable=SC2016
        base=$(job evaluate_base slurm/evaluate.sh '' 'evaluate.model=${model.path}' evaluate.label=base)
    fi
    for stage in "${STAGES[@]}"; do
        if [[ $stage == "$1" ]]; then started=1; fi
        if [[ -z $started ]]; then continue; fi
        script=slurm/$stage.sh
        if [[ $stage == grpo ]]; then script=$GRPO; fi
        if [[ $stage == report && -n $base ]]; then after=${after:+$after:}$base; fi
        after=$(job "$stage" "$script" "$after")
    done
}

job() { # STAGE SCRIPT JOBS_BEFORE [SETTING...]: prints the new job's id
    local stage=$1 script=$2 dependency=${3:+afterok:$3} name=$NAME-$1 command id options=() words=()
    shift 3
    if [[ $stage == grpo ]]; then # the name keeps two trainings of one run apart, as in common.sh
        dependency=${dependency:+$dependency,}singleton name=$NAME
        options=("${TRAINING[@]}") words=("${SIZE[@]}")
    fi
    command=(sbatch --parsable "--job-name=$name")
    if [[ -n $dependency ]]; then command+=("--dependency=$dependency" --kill-on-invalid-dep=yes); fi
    command+=("${options[@]}" "${OPTIONS[@]}" "$script" "${words[@]}" "${SETTINGS[@]}" "$@")
    if [[ -n $DRY ]]; then
        { printf '%q ' "${command[@]}" && echo; } >&2
        id="<$stage>"
    else
        id=$("${command[@]}")
        say "$stage: job ${id%%;*}"
    fi
    echo "${id%%;*}"
}

main "$@"
