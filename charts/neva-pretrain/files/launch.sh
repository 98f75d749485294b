#!/bin/bash
# Prepares this node for NeVa pretraining, then hands over to the supervisor (neva_pod/supervisor), which runs torchrun.
# Everything comes from the environment and from the read-only folder of the ConfigMap; no value is ever part of a shell
# line.
#   PET_*           the operator's or Trainer's: nodes, node rank, master, port; torchrun reads them by itself
#   NEVA_*          the chart's, see templates/_pod.tpl
# Exit codes: 64 anything wrong before torchrun starts, 143 stopped, preflight's (1: a check failed), else the supervisor's.
# Codes below 128 are final, others ask the operator for a new pod.
# shellcheck disable=SC2329  # step calls functions by their names
set -euo pipefail

say() { printf 'neva: %s\n' "$*" >&2 || true; }
stop() { local code=$1; shift; say "ERROR: $*"; exit "$code"; }
# bash is PID 1 here, and the kernel drops signals that PID 1 has no handler for.
child=
trap '[[ -z $child ]] || kill "$child" 2>/dev/null; exit 143' TERM INT

# Runs a step in a child, for at most so many seconds: a driver or a file system may hang, and bash obeys a signal only
# between commands. A step that fails without a sentence of its own gets one.
step() {
  local what=$1 limit=$2 code=0 start=$SECONDS
  shift 2
  "$@" &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    if (( SECONDS - start > limit )); then
      kill -KILL "$child" 2>/dev/null
      stop 64 "$what: no answer after $limit s; check the driver and the file systems of ${NODE_NAME:-this node}"
    fi
    sleep 0.1
  done
  wait "$child" || code=$?
  child=
  case $code in
    0) ;;
    64) exit "$code" ;;
    *) stop 64 "$what: exited with code $code, see the lines above" ;;
  esac
}

# Prints a number of the environment. Decimal only: bash would read 08 as octal, and wrap what is too large.
number() {
  local name=$1 least=$2 most=$3 fix=$4
  local got=${!name-}
  if ! [[ $got =~ ^(0|[1-9][0-9]{0,8})$ ]] || (( got < least || got > most )); then
    stop 64 "$name: got ${got:-nothing}; must be a decimal number, $least to $most; $fix"
  fi
  printf '%s' "$got"
}

# Prints a variable that must be there.
text() {
  local name=$1 fix=$2
  [[ -n ${!name-} ]] || stop 64 "$name: got nothing; must be set; $fix"
  printf '%s' "${!name}"
}

chart="the chart sets it: this script runs only in the chart's pods"
operator="the training operator or Trainer sets it: check that this pod belongs to a PyTorchJob or TrainJob"
: "${NEVA_WAIT_SECONDS=900}"
number NEVA_WAIT_SECONDS 0 999999999 "set rendezvous.waitSeconds" >/dev/null

# Whether a GID is an address of this pod, link-local ones aside. Takes a root folder, 4 or 6, and the GID.
own_gid() {
  local address
  if [[ $2 == 6 ]]; then
    # Address, interface, length, scope: 00 is global.
    grep -qE "^${3//:/} [0-9a-f]+ [0-9a-f]+ 00 " "$1/proc/net/if_inet6" 2>/dev/null
    return
  fi
  [[ $3 =~ ^(0000:){5}ffff:(..)(..):(..)(..)$ ]] || return
  address=$(printf '%d\\.' "0x${BASH_REMATCH[2]}" "0x${BASH_REMATCH[3]}" "0x${BASH_REMATCH[4]}" "0x${BASH_REMATCH[5]}")
  [[ $(grep -E -A1 -- "-- ${address%\\.}\$" "$1/proc/net/fib_trie" 2>/dev/null) == *LOCAL* ]]
}

# Prints the index of RoCE v2 over an address of this pod, where all adapters that have one agree. NCCL before 2.21
# takes 0, which is not routed, and no value can tell: nodes, macvlans and virtual functions differ. Takes a root folder,
# and 4 or 6.
gid_index_of() {
  local port gid index found=
  for port in "$1"/sys/class/infiniband/*/ports/*; do
    [[ $(cat "$port/link_layer" 2>/dev/null) == Ethernet ]] || return 0
    for gid in $(printf '%s\n' "$port"/gids/* | sort -V); do
      index=${gid##*/}
      [[ $(cat "$port/gid_attrs/types/$index" 2>/dev/null) == *v2 ]] || continue
      own_gid "$1" "$2" "$(cat "$gid" 2>/dev/null)" || continue
      [[ ${found:-$index} == "$index" ]] || return 0
      found=$index
      break
    done
  done
  printf '%s' "$found"
}

# The same over IPv4, else over IPv6: an IPv6-only cluster's pods have no other.
gid_index() {
  local found
  found=$(gid_index_of "$1" 4)
  printf '%s' "${found:-$(gid_index_of "$1" 6)}"
}
if [[ ${1:-} == gid-index ]]; then gid_index "${2:-}"; exit 0; fi

nodes=$(number NEVA_NODES 1 999999999 "$chart")
processes=$(number NEVA_GPUS_PER_NODE 1 999999999 "$chart")
text NEVA_RESULTS_DIR "$chart" >/dev/null
work=$(text NEVA_WORK_DIR "$chart")
text NEVA_ENTRYPOINT "set image.entrypoint" >/dev/null
config=${NEVA_CONFIG_DIR:-/etc/neva}
for tool in python3 torchrun; do
  command -v "$tool" >/dev/null || stop 64 "$tool: not found on PATH; must be in the image; use the NeMo container (image.repository)"
done

# A node that does not know its rank must not become a second rank 0.
rank=0
if [[ -v PET_NODE_RANK ]]; then
  rank=$(number PET_NODE_RANK 0 $((nodes - 1)) "check the job's replicas")
elif [[ -v RANK ]]; then
  rank=$(number RANK 0 $((nodes - 1)) "check the job's replicas")
elif (( nodes > 1 )); then
  stop 64 "PET_NODE_RANK: not set on a job of $nodes nodes; $operator"
fi
if [[ -n ${PET_NNODES:-} && $PET_NNODES != "$nodes" ]]; then
  stop 64 "PET_NNODES: got $PET_NNODES; must equal the $nodes nodes of the configuration; check that the job's replicas were not edited"
fi

# Trainer's port is always 29500; the chart's is the user's choice, free on every node with hostNetwork.
[[ -z ${NEVA_MASTER_PORT:-} ]] || export PET_MASTER_PORT=$NEVA_MASTER_PORT
export NEVA_NODE_RANK=$rank
if (( rank > 0 )); then
  [[ -n ${PET_MASTER_ADDR:-} ]] && NEVA_MASTER_HOST=$PET_MASTER_ADDR || NEVA_MASTER_HOST=$(text MASTER_ADDR "$operator")
  export NEVA_MASTER_HOST
fi

cd "$config" || stop 64 "$config: cannot be entered; must hold the job's files; $chart"
# All that can be known of inputs and node, before a GPU is touched. Here and not in an init container: the operator makes
# a pod whose init container failed again and again.
if [[ -n ${NEVA_PREFLIGHT:-} ]]; then
  python3 -m neva_pod.preflight --settings settings.json --level "$NEVA_PREFLIGHT" &
  child=$! code=0
  wait "$child" || code=$?
  child=
  # Its code would ask the operator for a new pod, which meets the same, for ever.
  (( code < 128 )) || stop 64 "preflight: killed by signal $((code - 128)); must run to its end; 9 is the kernel's for want of memory: raise resources.memory"
  (( code == 0 )) || exit "$code"
fi

# torchrun would start fewer processes than there are GPUs, or more, silently. Of MIG slices a CUDA process
# sees one only, however many the pod has.
check_gpus() {
  local line name uuid gpus=0 slices=0 shares=0 where=${NODE_NAME:-this node}
  local -A seen=()
  while IFS= read -r line; do
    # Names of vGPUs end in the memory in GB and the series; time slicing may list one GPU again.
    if [[ $line =~ ^GPU\ [0-9]+:\ (.*)\ \(UUID:\ ([^\)]+)\) ]]; then
      name=${BASH_REMATCH[1]} uuid=${BASH_REMATCH[2]}
      if [[ $name == "GRID "* || $name =~ -[0-9]+[ABCQ]$ || -n ${seen[$uuid]-} ]]; then shares=$((shares + 1)); fi
      seen[$uuid]=1
    fi
    if [[ $line =~ ^[[:space:]]*MIG[[:space:]]|UUID:\ MIG- ]]; then slices=$((slices + 1)); fi
    if [[ $line == "GPU "* ]]; then gpus=$((gpus + 1)); fi
  done < <(nvidia-smi --list-gpus 2>/dev/null)
  (( slices == 0 )) || stop 64 "GPUs: got $slices MIG slices visible on $where; must be whole GPUs; switch MIG off on that node, or keep the job away from it (scheduling.avoidNodes)"
  (( shares == 0 )) || stop 64 "GPUs: got $shares vGPUs, or GPUs listed again, visible on $where; must be whole GPUs; give the node whole GPUs, or keep the job away from it (scheduling.avoidNodes)"
  (( gpus == processes )) || stop 64 "GPUs: got $gpus visible on $where; must equal training.gpusPerNode ($processes); check the device plugin and the node's health"
}
step nvidia-smi 120 check_gpus

# With RDMA, pinned memory above the limit makes NCCL fall back to TCP in silence.
memlock=$(ulimit -l)
say "memlock limit: $memlock"
if [[ ${NEVA_RDMA:-0} == 1 && $memlock != unlimited && $EUID != 0 ]]; then
  stop 64 "memlock: got $memlock KiB as uid $EUID; must be unlimited for RDMA; IPC_LOCK does not help a non-root user: run as root, or raise the runtime's memlock limit"
fi

if [[ ${NEVA_RDMA:-0} == 1 && -z ${NCCL_IB_GID_INDEX+set} ]]; then
  index=$(gid_index "")
  if [[ -n $index ]]; then export NCCL_IB_GID_INDEX=$index; say "NCCL_IB_GID_INDEX: $index"; fi
fi

# Makes a folder that this user can write into; other nodes make it at the same time.
folder() {
  local path=$1 owner=$2 error
  error=$(mkdir -p "$path" 2>&1) || [[ -d $path ]] || stop 64 "$path: cannot be created as uid $EUID (${error##*: }); must be a folder; check the owner and mode of $owner"
  error=$(mktemp "$path/.neva.XXXXXX" 2>&1) || stop 64 "$path: cannot be written as uid $EUID (${error##*: }); must be writable; check the owner, mode and free space of $owner"
  rm -f "$error"
}

make_folders() {
  folder "$work" storage.scratch
  folder "${TMPDIR:-/tmp}" storage.scratch
  folder "${HF_HOME:-$work/huggingface}" hf.home
  folder "${HOME:-$work}" storage.scratch
}
step "folders of scratch" 300 make_folders

exec python3 -m neva_pod.supervisor
