#!/bin/bash
# A Slurm cluster of two nodes on one machine, to try the scripts of run/slurm/ on; for
# tests/test_slurm.py. A node is a network namespace with a host name, an address and a slurmd of
# its own, so that ranks on two nodes talk by TCP.
#
#   ci/slurm-cluster.sh up           start it: partitions normal, and urgent, which preempts normal
#   ci/slurm-cluster.sh lose node2   cut the node's cable, then kill all that runs on it
#   ci/slurm-cluster.sh mend node2   switch it on again
#   ci/slurm-cluster.sh down         stop all of it, and remove what it left behind
#
# Needs root and Debian's slurm-wlm, munge and iproute2. It writes /etc/slurm/slurm.conf, where
# srun, sbatch and the others look, but not over one that is not its own.
set -euo pipefail

nodes=(node1 node2)
folder=/var/tmp/trpo-mpi-slurm
config=/etc/slurm/slurm.conf
mark="# written by ci/slurm-cluster.sh"
bridge=trpo-bridge
network=10.213.76

die() {
    echo "slurm-cluster.sh: $*" >&2
    exit 1
}

ours() {
    [[ -f $config && $(head -n 1 "$config") == "$mark" ]]
}

# address NODE: node1 has .1, and so on; the controller has .254.
address() {
    echo "$network.${1#node}"
}

write_config() {
    local node memory
    memory=$(awk '/^MemTotal/ { print int($2 / 1024) }' /proc/meminfo)
    mkdir -p /etc/slurm
    # Times are short so that tests are: a node is lost after SlurmdTimeout without an answer; what
    # does not end on TERM is killed after KillWait; a requeued job waits for cred_expire.
    cat >"$config" <<END
$mark
ClusterName=trpo-mpi
SlurmctldHost=$(hostname)($network.254)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=15
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmdTimeout=10
TCPTimeout=1
MessageTimeout=5
KillWait=5
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool-%n
TmpFS=$folder/tmp-%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/%n.log
END
    for node in "${nodes[@]}"; do
        echo "NodeName=$node NodeHostname=$node NodeAddr=$(address "$node") CPUs=1" \
            "RealMemory=$memory"
    done >>"$config"
    # GraceTime: seconds that a preempted job has between TERM and its end.
    cat >>"$config" <<END
PartitionName=normal Nodes=ALL Default=YES PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=ALL PriorityTier=10
END
}

# The namespace with the cable that joins it to the others.
make_node() {
    local node=$1
    mkdir -p "$folder/tmp-$node"
    ip netns add "trpo-$node"
    ip link add "trpo-$node" type veth peer name eth0 netns "trpo-$node"
    ip link set "trpo-$node" master "$bridge" up
    ip -n "trpo-$node" addr add "$(address "$node")/24" dev eth0
    ip -n "trpo-$node" link set eth0 up
    ip -n "trpo-$node" link set lo up
    echo "$(address "$node") $node $mark" >>/etc/hosts
}

# Not by `ip netns exec`: it would mount a /sys of its own, without the cgroups that slurmd wants to
# see. And between nodes of one IPC namespace MPICH's UCX would use shared memory, not the network.
start_slurmd() {
    nsenter --net="/run/netns/trpo-$1" unshare --uts --ipc sh -c "hostname $1 && exec slurmd -N $1"
}

wait_for_nodes() {
    local deadline=$((SECONDS + 30))
    while ((SECONDS < deadline)); do
        if [[ $(sinfo -h -N -p normal -t idle 2>/dev/null | wc -l) == "${#nodes[@]}" ]]; then
            return
        fi
        sleep 0.2
    done
    sinfo -N >&2 || true
    tail -n 20 "$folder"/*.log >&2 || true
    die "the nodes did not come up"
}

up() {
    local command node
    for command in slurmctld slurmd munged ip nsenter unshare; do
        [[ -n $(type -P "$command") ]] || die "there is no $command"
    done
    [[ ! -e $config ]] || ours || die "$config is that of another cluster"
    down # what an earlier one may have left
    mkdir -p "$folder/state"
    if ! munge -n 2>/dev/null | unmunge >/dev/null 2>&1; then
        install -d -o munge -g munge /run/munge
        runuser -u munge -- munged --force 2>/dev/null
        touch "$folder/munged"
    fi
    write_config
    ip link add "$bridge" type bridge
    ip addr add "$network.254/24" dev "$bridge"
    ip link set "$bridge" up
    for node in "${nodes[@]}"; do
        make_node "$node"
    done
    slurmctld
    for node in "${nodes[@]}"; do
        start_slurmd "$node"
    done
    wait_for_nodes
    sinfo
}

# kill_all NODE: only what lives in its namespace.
kill_all() {
    local pids
    pids=$(ip netns pids "trpo-$1")
    # shellcheck disable=SC2086 # a list of numbers
    [[ -z $pids ]] || kill -KILL $pids 2>/dev/null || true
}

# The cable first: no packet of a dying process is to reach the others.
lose() {
    ip link set "trpo-$1" down
    kill_all "$1"
}

mend() {
    ip link set "trpo-$1" up
    start_slurmd "$1"
}

# stop_daemon PIDFILE: and give it time to end, since the next one wants its port.
stop_daemon() {
    local pid deadline=$((SECONDS + 5))
    pid=$(cat "$1" 2>/dev/null) || return 0
    kill "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null && ((SECONDS < deadline)); do
        sleep 0.1
    done
}

down() {
    local node hosts
    stop_daemon "$folder/slurmctld.pid"
    for node in "${nodes[@]}"; do
        [[ ! -e /run/netns/trpo-$node ]] && continue
        kill_all "$node"
        # A namespace, and the cable with it, would live until the last of its processes has gone.
        ip link del "trpo-$node" 2>/dev/null || true
        ip netns del "trpo-$node"
    done
    ip link del "$bridge" 2>/dev/null || true
    if [[ -f $folder/munged ]]; then
        stop_daemon /run/munge/munged.pid
    fi
    # Written over, not replaced: in a container /etc/hosts is a mount.
    if grep -q "$mark" /etc/hosts; then
        hosts=$(grep -v "$mark" /etc/hosts)
        echo "$hosts" >/etc/hosts
    fi
    if ours; then
        rm "$config"
    fi
    rm -rf "$folder"
}

known() {
    [[ " ${nodes[*]} " == *" $1 "* ]] || die "there are nodes ${nodes[*]}"
}

[[ $(id -u) == 0 ]] || die "this needs root"
case "${1-} ${2-}" in
"up ") up ;;
"down ") down ;;
"lose "?*) known "$2" && ours && lose "$2" ;;
"mend "?*) known "$2" && ours && mend "$2" ;;
*)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
