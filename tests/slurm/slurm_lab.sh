#!/usr/bin/env bash
# A real N-node Slurm cluster on this one machine, for tests: own munge key, no systemd,
# no accounting, fake GPUs. Idempotent; signals only pids it started (pid + start time are checked).
#   slurm_lab.sh install | up | down | status | env          SLURM_LAB_NET=loopback (default) | netns
# loopback: nodes n1,n2 both on 127.0.0.1 (other ports); own hostname + /etc/hosts per slurmd (uts+mount namespaces)
# netns:    nodes in own network namespaces on a private bridge: 127.0.0.1 is private to each node
set -euo pipefail; shopt -s extglob nullglob
LAB=${SLURM_LAB:-${TMPDIR:-/tmp}/slurm-lab} NET=${SLURM_LAB_NET:-loopback}
NODES=${SLURM_LAB_NODES:-2} GPUS=${SLURM_LAB_GPUS:-8} CPUS=${SLURM_LAB_CPUS:-64} MEM=${SLURM_LAB_MEM:-20000}
PORT=${SLURM_LAB_PORT:-17002} PMIX=/usr/lib/x86_64-linux-gnu/pmix2/lib
export SLURM_CONF=$LAB/slurm.conf
# cgroup v1: steps are tracked whole and memory limits hold. Else linuxproc: a daemonised child of a task escapes.
if [[ -w /sys/fs/cgroup/freezer && -w /sys/fs/cgroup/memory && -z ${SLURM_LAB_NO_CGROUP:-} ]]; then CG=1 PROC=proctrack/cgroup TASK=task/cgroup
else CG='' PROC=proctrack/linuxproc TASK=task/none; fi
if [[ $NET == netns ]]; then CTL=10.77.0.1 COMM=NoCtldInAddrAny; addr() { echo "10.77.0.$((10 + $1))"; }
else CTL=127.0.0.1 COMM=NoCtldInAddrAny,NoInAddrAny; addr() { echo 127.0.0.1; }; fi

install_pkgs() {
  local c need=''; for c in slurmctld slurmd munged sbatch ip; do command -v "$c" >/dev/null || need=1; done   # command -v a b: true if ANY exists
  [[ -n $need || ! -e $PMIX/libpmix.so ]] || return 0
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    slurmctld slurmd slurm-client munge iproute2 libpmix2 >/dev/null
  [[ -e $PMIX/libpmix.so ]] || ln -s libpmix.so.2 "$PMIX/libpmix.so"   # srun --mpi=pmix dlopens the unversioned name
}
start() { # NAME CMD...: CMD execs a foreground daemon
  local name=$1; shift
  setsid "$@" >>"$LAB/log/$name.out" 2>&1 </dev/null &
  echo "$! $(awk '{print $22}' "/proc/$!/stat")" >"$LAB/run/$name.pid"
}
alive() {
  local p s
  [[ -e $LAB/run/$1.pid ]] && read -r p s <"$LAB/run/$1.pid" &&
    [[ $(awk '$3 != "Z" {print $22}' "/proc/$p/stat" 2>/dev/null) == "$s" ]]
}
stop() {
  local p
  if alive "$1"; then
    read -r p _ <"$LAB/run/$1.pid"; kill -TERM "$p" 2>/dev/null || true
    for _ in {1..100}; do alive "$1" || break; sleep 0.1; done
    if alive "$1"; then kill -KILL "$p" || true; fi
  fi
  rm -f "$LAB/run/$1.pid"
}
net_up() {
  local i; printf '127.0.0.1 localhost\n%s %s\n' "$CTL" "$(hostname -s)" >"$LAB/hosts"
  for ((i = 1; i <= NODES; i++)); do echo "$(addr "$i") n$i" >>"$LAB/hosts"; done
  [[ $NET == netns ]] || return 0
  ip link add slbr0 type bridge; ip addr add "$CTL/24" dev slbr0; ip link set slbr0 up
  for ((i = 1; i <= NODES; i++)); do
    ip netns add "sln$i"; ip link add "slv$i" type veth peer name eth0 netns "sln$i"
    ip link set "slv$i" master slbr0 up; ip -n "sln$i" link set lo up; ip -n "sln$i" link set eth0 up
    ip -n "sln$i" addr add "$(addr "$i")/24" dev eth0
  done
}
net_down() {
  local l; for l in $(ip -br link 2>/dev/null | grep -oE '^slv[0-9]+'); do ip link del "$l"; done
  local n; for n in $(ip netns list 2>/dev/null | awk '$1 ~ /^sln[0-9]+$/ {print $1}'); do ip netns del "$n"; done
  if ip link show slbr0 >/dev/null 2>&1; then ip link del slbr0; fi
}
write_conf() {
  local i; head -c 1024 /dev/urandom >"$LAB/munge.key"; chmod 400 "$LAB/munge.key"
  cat >"$SLURM_CONF" <<CONF
ClusterName=lab
FirstJobId=$(($(date +%s) % 60000 + 1))
SlurmctldHost=$(hostname -s)($CTL)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$LAB/run/munge.sock
CommunicationParameters=$COMM
StateSaveLocation=$LAB/state
SlurmdSpoolDir=$LAB/spool/%n
TmpFS=$LAB/tmp/%n
SlurmctldLogFile=$LAB/log/slurmctld.log
SlurmdLogFile=$LAB/log/slurmd.%n.log
SlurmctldPidFile=$LAB/run/slurmctld.own.pid
SlurmdPidFile=$LAB/run/slurmd.%n.own.pid
ProctrackType=$PROC
TaskPlugin=$TASK
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$LAB/log/jobcomp.txt
MailProg=/bin/true
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2,sched_min_interval=0
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PropagateResourceLimits=NONE
ReturnToService=2
JobRequeue=1
KillWait=5
MinJobAge=3600
SlurmdTimeout=10
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
CONF
  if [[ -n $CG ]]; then printf 'CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\n' >"$LAB/cgroup.conf"; fi
  : >"$LAB/gres.conf"
  for ((i = 1; i <= NODES; i++)); do
    echo "NodeName=n$i NodeHostname=n$i NodeAddr=$(addr "$i") Port=$((PORT + i)) CPUs=$CPUS Sockets=1 CoresPerSocket=$CPUS ThreadsPerCore=1 RealMemory=$MEM Gres=gpu:$GPUS State=UNKNOWN" >>"$SLURM_CONF"
    echo "NodeName=n$i Name=gpu File=/dev/tty[1-$GPUS]" >>"$LAB/gres.conf"
  done
  cat >>"$SLURM_CONF" <<CONF
PartitionName=batch Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=REQUEUE GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=20 PreemptMode=OFF
CONF
  if [[ -n ${SLURM_LAB_EXTRA_CONF:-} ]]; then printf '%b\n' "$SLURM_LAB_EXTRA_CONF" >>"$SLURM_CONF"; fi
}
idle() { [[ $(timeout 5 sinfo -h -N -p batch -o %T 2>/dev/null | grep -c '^idle$') == "$NODES" ]]; }
up() {
  install_pkgs
  if alive slurmctld && idle; then echo "already up"; return 0; fi
  down; rm -rf "$LAB"; mkdir -p "$LAB"/{run,log,state}; chmod 755 "$LAB" "$LAB"/{run,log}
  local i ns; write_conf; net_up
  start munged munged -F --force --key-file="$LAB/munge.key" --socket="$LAB/run/munge.sock" \
    --pid-file="$LAB/run/munged.own.pid" --seed-file="$LAB/munge.seed" --log-file="$LAB/log/munged.log"
  for _ in {1..100}; do [[ -S $LAB/run/munge.sock ]] && break; sleep 0.05; done
  # own mount namespace: /etc/hosts decides which address slurmctld binds (NoCtldInAddrAny)
  # shellcheck disable=SC2016
  start slurmctld unshare --mount --propagation slave bash -c \
    'mount --bind "$1/hosts" /etc/hosts; exec slurmctld -D -f "$1/slurm.conf"' _ "$LAB"
  for ((i = 1; i <= NODES; i++)); do
    mkdir -p "$LAB/spool/n$i" "$LAB/tmp/n$i"; chmod 1777 "$LAB/tmp/n$i"; ns=(); [[ $NET == netns ]] && ns=(nsenter --net="/run/netns/sln$i")
    # shellcheck disable=SC2016
    start "slurmd.n$i" "${ns[@]}" unshare --uts --mount --propagation slave bash -c \
      'hostname "$1"; mount --bind "$2/hosts" /etc/hosts; exec slurmd -D -N "$1" -f "$2/slurm.conf"' _ "n$i" "$LAB"
  done
  local end=$((SECONDS + 30)); while ((SECONDS < end)); do if idle; then sinfo; return 0; fi; sleep 0.1; done
  echo "cluster did not come up; see $LAB/log" >&2; return 1
}
reap() { # what a killed slurmd left: this lab's slurmstepds (they hold its slurmd log open) and their tasks (this lab's SLURM_CONF)
  local d p n
  for n in 1 2; do
    for d in /proc/[0-9]*; do
      p=${d#/proc/}; [[ $p != "$$" && $p != "${BASHPID}" ]] || continue
      case $(readlink "$d/exe" 2>/dev/null) in
        */slurmstepd*) find "$d/fd" -lname "$LAB/log/slurmd.n*" 2>/dev/null | grep -q . || continue ;;
        *) [[ $(tr '\0' '\n' 2>/dev/null <"$d/environ" | grep -cE "^(SLURM_CONF=$SLURM_CONF|SLURMD_NODENAME=.*)\$") == 2 ]] || continue ;;
      esac
      kill -KILL "$p" 2>/dev/null || true
    done
    if [[ $n == 1 ]]; then sleep 0.2; fi
  done
}
down() {
  [[ -d $LAB/run ]] || { net_down; return 0; }
  if alive slurmctld; then
    timeout 10 scancel -u "$(id -un)" 2>/dev/null || true   # KillWait=5 s, then SIGKILL by slurmd
    for _ in {1..150}; do [[ -z $(timeout 5 squeue -h 2>/dev/null) ]] && break; sleep 0.1; done
  fi
  local f; for f in "$LAB"/run/slurmd.n+([0-9]).pid; do if [[ -e $f ]]; then stop "$(basename "$f" .pid)"; fi; done
  stop slurmctld; stop munged; reap 2>/dev/null; net_down
  local d; for d in /sys/fs/cgroup/*/slurm_n+([0-9]); do find "$d" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
}
case ${1:-} in
  install) install_pkgs ;; up) up ;; down) down ;; env) echo "export SLURM_CONF=$SLURM_CONF" ;;
  status) sinfo -N -l; squeue ;;
  *) echo "usage: $0 install|up|down|status|env" >&2; exit 2 ;;
esac
