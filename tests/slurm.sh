#!/usr/bin/env bash
# A SLURM of one node on this machine, for tests: `slurm.sh start DIR` as root, and `slurm.sh stop DIR`.
# Installs slurm-wlm and munge by apt where they are missing. Prints one line and ends with 77 where it cannot be had.
set -euo pipefail
action=$1 home=$2

cannot() { echo "no SLURM here: $*"; exit 77; }

start() {
    [ "$(id -u)" = 0 ] || cannot "its daemons want root"
    if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
        command -v apt-get >/dev/null || cannot "no apt-get"
        export DEBIAN_FRONTEND=noninteractive
        { apt-get install -y -qq slurm-wlm munge || { apt-get update -qq && apt-get install -y -qq slurm-wlm munge; }; } \
            >"$home/apt.log" 2>&1 || cannot "apt-get could not install slurm-wlm and munge"
    fi
    mkdir -p "$home"/{state,spool}
    [ -s /etc/munge/munge.key ] || { dd if=/dev/urandom bs=1 count=1024 2>/dev/null >/etc/munge/munge.key; }
    chown munge: /etc/munge/munge.key; chmod 400 /etc/munge/munge.key
    if ! munge -n >/dev/null 2>&1; then
        mkdir -p /run/munge; chown munge: /run/munge
        su -s /bin/sh munge -c munged || cannot "munged does not start"
        touch "$home/munge.ours"
    fi
    host=$(hostname -s)
    cat >"$home/slurm.conf" <<CONF
ClusterName=tests
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
StateSaveLocation=$home/state
SlurmdSpoolDir=$home/spool
SlurmctldPidFile=$home/slurmctld.pid
SlurmdPidFile=$home/slurmd.pid
SlurmctldLogFile=$home/slurmctld.log
SlurmdLogFile=$home/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
KillWait=20
MinJobAge=300
SchedulerParameters=sched_interval=1,batch_sched_delay=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
CONF
    slurmctld -f "$home/slurm.conf"
    slurmd -f "$home/slurm.conf"
    for _ in $(seq 100); do
        SLURM_CONF="$home/slurm.conf" sinfo -h -o %T 2>/dev/null | grep -q -E 'idle|mix|alloc' && exit 0
        sleep 0.2
    done
    stop
    cannot "its node does not come up; see $home/slurmctld.log"
}

stop() {
    for daemon in slurmd slurmctld; do
        [ ! -f "$home/$daemon.pid" ] || kill "$(cat "$home/$daemon.pid")" 2>/dev/null || true
    done
    [ ! -f "$home/munge.ours" ] || kill "$(cat /run/munge/munged.pid)" 2>/dev/null || true
}

case $action in
    start) start ;;
    stop) stop ;;
    *) echo "usage: slurm.sh start|stop DIR"; exit 2 ;;
esac
