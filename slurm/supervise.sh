# shellcheck shell=bash
# One attempt of a training job: plan, preflight, servers, trainer, and what follows its end. Sourced by common.sh.
#
#   trainer ends, DONE is there      the run is complete: status 0
#   trainer ends, DONE is not        it was asked to stop and has saved: requeue; the next attempt resumes
#   trainer or a server fails        requeue if this attempt has saved a new checkpoint, else the job fails
#   SIGUSR1 (time limit, preemption) passed to the ranks, which agree on a step boundary, save and end with status 0
#   SIGTERM (scancel)                everything is stopped

STOP='' DIED=''
declare -A PID=() RESTARTS=() # of each step: its srun, and how often it may still be started again
declare -A URL=() READY_WITHIN=() SILENT_WITHIN=() SICK_WITHIN=() ENDS_WITHIN=() # of each step: health, limits
declare -A READY=() BAD=() ENDING=() # of each server: how it has been
SERVERS=()
MAX_STALLED=3 # attempts in a row that save nothing new, before the job gives up
SERVER_DIED=70 NOT_COMPLETE=75

attempt() { # SETTING...
    trap 'STOP=1' USR1
    trap 'say "cancelled"; exit 143' TERM
    trap stop_steps EXIT
    import_container
    plan "$@"
    if [[ -e $RUN/DONE ]]; then
        say "$RUN is complete"
        return
    fi
    preflight
    first_checkpoint=$(newest_checkpoint)
    say "attempt $ALPHAMED_ATTEMPT of $RUN, from $(beginning); logs in $ATTEMPT"
    start_servers
    if [[ -z $STOP && -z $DIED ]]; then
        start trainer
        watch_trainer
    fi
    conclude
}

plan() { # SETTING...: checks everything and writes the steps; fills ATTEMPT (their folder) and RUN
    local status=0
    ATTEMPT=$(on_first_node plan "$PYTHON" -m alphamed_nemo.launch.slurm "$@" | tail -n 1) || status=$?
    if ((status)); then die "$status" "nothing was started"; fi
    RUN=${ATTEMPT%/logs/*}
}

preflight() { # what only the nodes can tell
    : >"$ATTEMPT/canary"
    # shellcheck disable=SC2016
    on_each_node preflight bash -c '
        node=$SLURMD_NODENAME
        if [[ ! -e $1 ]]; then
            echo "$node does not see $1: run.dir has to be on a disk that all nodes (and the container) share" >&2
            exit 1
        fi
        address=$(getent ahostsv4 "$node" | head -n 1)
        if ((SLURM_NNODES > 1)) && [[ $address == 127.* ]]; then
            echo "$node is ${address%% *} to itself, where no other node can reach it: see /etc/hosts" >&2
            exit 1
        fi' _ "$ATTEMPT/canary" || die 1 "preflight failed; the reason is above"
    {
        git describe --always --dirty 2>/dev/null || true
        scontrol show job "$SLURM_JOB_ID"
        env | grep -E '^(ALPHAMED|SLURM|SBATCH|NCCL|GLOO)_' | grep -viE '^[^=]*(KEY|TOKEN|SECRET|PASSW)'
    } >"$ATTEMPT/job.txt"
}

start() { # NAME: a step in the background
    local options
    READY[$1]='' BAD[$1]='' ENDING[$1]=''
    mapfile -t options <"$ATTEMPT/$1.srun"
    srun "${options[@]}" "${CONTAINER[@]}" bash "$ATTEMPT/$1.sh" &
    PID[$1]=$!
}

start_servers() { # returns when all are ready, one cannot be had, or the job was asked to stop
    local name health restarts ready silent sick ends deadline
    while IFS=$'\t' read -r name health restarts ready silent sick ends <&3; do
        URL[$name]=$health READY_WITHIN[$name]=$ready SILENT_WITHIN[$name]=$silent
        SICK_WITHIN[$name]=$sick ENDS_WITHIN[$name]=$ends
        RESTARTS[$name]=0 # one that has never been ready would fail the same way again
        if [[ $health == - ]]; then continue; fi
        SERVERS+=("$name")
        start "$name"
    done 3<"$ATTEMPT/steps"
    while IFS=$'\t' read -r name health restarts ready _ <&3; do
        deadline=$((SECONDS + ready))
        until [[ $health == - || $(status_of "$health" 2) == 200 ]]; do
            if [[ -n $STOP ]] || ! check_servers; then return; fi
            if ((SECONDS > deadline)); then
                DIED="$name was not ready within $ready s ($health did not answer 200; run.component_timeout_s)"
                return
            fi
            pause
        done
        RESTARTS[$name]=$restarts
    done 3<"$ATTEMPT/steps"
    say "ready: ${SERVERS[*]}"
}

status_of() { # URL SECONDS: of a GET; 000 without an answer in that time, 10 s at most
    curl --silent --noproxy '*' --max-time "$(($2 < 10 ? $2 : 10))" --output /dev/null --write-out '%{http_code}' "$1" || true
}

pause() { # a second, or less when a signal comes
    sleep 1 &
    wait $! || true
}

end_the_unwell() { # a server that hangs, or says that it is not well: check_servers then starts it again
    local name code limit
    for name in "${SERVERS[@]}"; do
        code=$(status_of "${URL[$name]}" "${SILENT_WITHIN[$name]}") # one that is slow to answer does not hang
        if [[ $code == 200 ]]; then
            READY[$name]=1 BAD[$name]=''
            continue
        fi
        BAD[$name]=${BAD[$name]:-$SECONDS}
        limit=${READY_WITHIN[$name]}
        if [[ -n ${READY[$name]} ]]; then limit=${SILENT_WITHIN[$name]}; fi
        if [[ -n ${READY[$name]} && $code != 000 ]]; then limit=${SICK_WITHIN[$name]}; fi
        if ((SECONDS - BAD[$name] > limit)) && alive "$name"; then
            say "$name: ${URL[$name]} has not answered 200 for $limit s (last status $code)"
            # Its wrapper (child.py) kills and clears away what is left; one that hangs itself goes the second time.
            BAD[$name]=$((SECONDS + ENDS_WITHIN[$name]))
            signal_step "$name" "${ENDING[$name]:-TERM}"
            ENDING[$name]=KILL
        fi
    done
}

alive() { kill -0 "${PID[$1]}" 2>/dev/null; }

check_servers() { # starts again what may be; false, with DIED filled, when one cannot be
    local name status
    for name in "${SERVERS[@]}"; do
        if alive "$name"; then continue; fi
        status=0
        wait "${PID[$name]}" || status=$?
        if ((RESTARTS[$name] == 0)); then
            DIED="$name ended with status $status while the run needed it; $ATTEMPT/$name.log"
            return 1
        fi
        RESTARTS[$name]=$((RESTARTS[$name] - 1))
        say "$name ended with status $status: started again"
        start "$name"
    done
}

watch_trainer() { # until it ends, or a server does
    while alive trainer; do
        # Again and again: a rank that has just started does not listen yet, and further signals do no harm.
        if [[ -n $STOP ]]; then signal_step trainer USR1; fi
        end_the_unwell
        check_servers || return 0
        pause
    done
}

signal_step() { # NAME SIGNAL. By scancel: srun, if signalled itself, kills its tasks at once.
    local id name
    while read -r id name; do
        # A step that ends at once makes scancel complain of a job that is not there.
        if [[ $name == "$1" ]]; then scancel --signal="$2" "$id" 2>/dev/null || true; fi
    done < <(squeue --steps --noheader --jobs="$SLURM_JOB_ID" --format='%i %j')
}

stop_steps() { # everything that was started; leaves nothing running
    local name deadline=$SECONDS running
    for name in "${!PID[@]}"; do
        if alive "$name"; then signal_step "$name" TERM; fi
        if ((SECONDS + ENDS_WITHIN[$name] > deadline)); then deadline=$((SECONDS + ENDS_WITHIN[$name])); fi
    done
    while ((SECONDS < deadline)); do
        running=
        for name in "${!PID[@]}"; do
            if alive "$name"; then running=1; fi
        done
        if [[ -z $running ]]; then return; fi
        pause
    done
    for name in "${!PID[@]}"; do
        if alive "$name"; then signal_step "$name" KILL; fi
    done
}

conclude() { # decides how the attempt ends, by what is on the disk
    local status=0 reason='' said=''
    if [[ -n ${PID[trainer]:-} ]] && ! alive trainer; then
        wait "${PID[trainer]}" || status=$?
        # One that pulled the trainer down with it is the one to name.
        if ((status)) && [[ -z $DIED ]]; then check_servers || true; fi
    fi
    if ((status)); then
        said=$(told trainer)
        reason="the trainer ended with status $status${said:+: $said}; $ATTEMPT/trainer*.log"
    fi
    if [[ -n $DIED ]]; then status=$SERVER_DIED reason=$DIED said=''; fi
    stop_steps
    if [[ -e $RUN/DONE ]]; then
        say "$RUN is complete"
        return
    fi
    if [[ -n $reason ]]; then
        say "error: $reason"
        if [[ -z $said ]]; then tail_logs; fi
    fi
    if saved_something_new; then
        rm -f "$RUN/logs/stalled"
    elif ((status)) && [[ -z $STOP ]]; then
        die "$status" "this attempt saved nothing new, so it is not repeated"
    else
        echo x >>"$RUN/logs/stalled"
        if (($(wc -l <"$RUN/logs/stalled") >= MAX_STALLED)); then
            rm -f "$RUN/logs/stalled"
            die "$NOT_COMPLETE" "$MAX_STALLED attempts in a row saved nothing new: is --time too short for a step?"
        fi
    fi
    requeue
}

newest_checkpoint() { # its step; nothing where there is none
    local path newest=''
    for path in "$RUN"/checkpoints/step_*; do
        path=${path##*/step_}
        if [[ $path =~ ^[0-9]+$ ]] && ((path > ${newest:--1})); then newest=$path; fi
    done
    echo "$newest"
}

saved_something_new() { [[ $(newest_checkpoint) != "$first_checkpoint" ]]; }

told() { # NAME: the first error that one of its ranks has said in one line, as launch/local.py finds it, or nothing
    local begins='^([^ ]+ [^ ]+ rank [0-9]+ )?error: '
    { grep -hE "$begins" "$ATTEMPT/$1"*.log || true; } | sort | sed -nE "1s/$begins//p"
}

tail_logs() { # the last lines of each component, so that the job's own log tells the story
    local log
    for log in "$ATTEMPT"/*.log; do
        if [[ -s $log ]]; then
            echo "--- $log"
            tail -n 15 "$log"
        fi
    done >&2
}

beginning() { # where an attempt that starts now would go on from
    local newest
    newest=$(newest_checkpoint)
    echo "${newest:+checkpoint }${newest:-the base model}"
}

requeue() { # the same job again, in the queue; where a site has no requeue, whoever submits it again goes on
    trap - TERM EXIT
    if [[ ${ALPHAMED_REQUEUE:-1} == 1 ]]; then
        say "not complete: requeued, to go on from $(beginning)"
        if scontrol requeue "$SLURM_JOB_ID"; then exit 0; fi
    fi
    die "$NOT_COMPLETE" "not complete: submit the same command again to go on from $(beginning)"
}
