#!/bin/bash
# Starts NeVa pretraining on this node. Everything comes from the environment and from the read-only folder of the
# ConfigMap; no value is ever part of a shell line.
#   PET_*           the operator's or Trainer's: nodes, node rank, master, port; torchrun reads them by itself
#   NEVA_*          the chart's, see templates/_pod.tpl
# Exit codes: 64 wrong environment, 69 master not reachable, 143 told to stop before torchrun ran, else
# torchrun's.
set -euo pipefail

say() { printf 'neva: %s\n' "$*" >&2; }
stop() { local code=$1; shift; say "ERROR: $*"; exit "$code"; }
# bash is PID 1 here, and the kernel drops signals that PID 1 has no handler for.
trap 'exit 143' TERM INT

# Runs a command until it succeeds; what it stands for and how long are its first arguments.
wait_for() {
  local what=$1 limit=$2 start=$SECONDS next=10
  shift 2
  until timeout 5 "$@" >/dev/null 2>&1; do
    local waited=$((SECONDS - start))
    (( waited < limit )) || stop 69 "$what: not reachable after $waited s (limit rendezvous.waitSeconds $limit); see the master's pod: kubectl describe pod, kubectl logs"
    if (( waited >= next )); then say "waiting for the master at $what, $waited of $limit s"; next=$((waited + 30)); fi
    sleep 1
  done
  say "the master answers at $what after $((SECONDS - start)) s"
}

# An init container of workers: the master's name resolves once the master has passed its own preflight.
if [[ ${1:-} == wait-for-master ]]; then
  master=${POD_NAME:?}
  master=${master%-worker-*}-master-0
  wait_for "$master" "${NEVA_WAIT_SECONDS:-900}" getent hosts "$master"
  exit 0
fi

nodes=${NEVA_NODES:?}
processes=${NEVA_GPUS_PER_NODE:?}
results=${NEVA_RESULTS_DIR:?}
work=${NEVA_WORK_DIR:?}
config=${NEVA_CONFIG_DIR:-/etc/neva}

# A node that does not know its rank must not become a second rank 0 (B04).
rank=${PET_NODE_RANK:-${RANK:-}}
if [[ -z $rank ]]; then
  (( nodes == 1 )) || stop 64 "PET_NODE_RANK: not set on a job of $nodes nodes; the training operator or Trainer sets it; check that this pod belongs to a PyTorchJob or TrainJob"
  rank=0
fi
if ! [[ $rank =~ ^[0-9]+$ ]] || (( rank >= nodes )); then
  stop 64 "PET_NODE_RANK: got $rank; must be 0 to $((nodes - 1)); check the job's replicas"
fi
if [[ -n ${PET_NNODES:-} && $PET_NNODES != "$nodes" ]]; then
  stop 64 "PET_NNODES: got $PET_NNODES; must equal the $nodes nodes of the configuration; check that the job's replicas were not edited"
fi

# Trainer's port is always 29500; the chart's is the user's choice, free on every node with hostNetwork (A15).
[[ -z ${NEVA_MASTER_PORT:-} ]] || export PET_MASTER_PORT=$NEVA_MASTER_PORT

# torchrun would start fewer processes than there are GPUs, or more, without a word (A05).
gpus=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ' || true)
(( gpus == processes )) || stop 64 "GPUs: got $gpus visible on ${NODE_NAME:-this node}; must equal training.gpusPerNode ($processes); check the device plugin and the node's health"

# With RDMA, pinned memory above the limit makes NCCL fall back to TCP in silence (C02).
memlock=$(ulimit -l)
say "memlock limit: $memlock"
if [[ ${NEVA_RDMA:-0} == 1 && $memlock != unlimited && $(id -u) != 0 ]]; then
  stop 64 "memlock: got $memlock KiB as uid $(id -u); must be unlimited for RDMA; IPC_LOCK does not help a non-root user: run as root, or raise the runtime's memlock limit"
fi

mkdir -p "$work" "${TMPDIR:-/tmp}" "${HF_HOME:-$work/huggingface}" "${HOME:-$work}"
mkdir -p "$results" 2>/dev/null || [[ -d $results ]] || stop 64 "$results: cannot be made as uid $(id -u); check the owner and mode of storage.results"

if (( rank > 0 )); then
  # The port opens only when the master's torchrun is up (B01).
  host=${PET_MASTER_ADDR:-${MASTER_ADDR:?}} port=${PET_MASTER_PORT:-${MASTER_PORT:?}}
  # shellcheck disable=SC2016  # the inner shell expands its own arguments
  wait_for "$host:$port" "${NEVA_WAIT_SECONDS:-900}" bash -c 'exec 3<>"/dev/tcp/$1/$2"' _ "$host" "$port"
else
  # One writer: what this run is, beside its results. The checkpoint holds the projector only (D13).
  record=$results/run.json
  temporary=$(mktemp "$results/.run.json.XXXXXX")
  python3 - "$config/settings.json" >"$temporary" <<'PYTHON'
import importlib.metadata, json, platform, sys

settings = json.load(open(sys.argv[1]))
settings["versions"] = {"python": platform.python_version()}
for name in ("torch", "nemo_toolkit", "megatron_core", "transformer_engine", "transformers"):
    try:
        settings["versions"][name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        settings["versions"][name] = None
json.dump(settings, sys.stdout, indent=2, sort_keys=True)
PYTHON
  chmod '=rw' "$temporary" # mktemp's 0600 is for no one else; this is what umask allows
  mv -f "$temporary" "$record"
fi

arguments=(
  --nnodes="$nodes" --node-rank="$rank" --nproc-per-node="$processes"
  "${NEVA_ENTRYPOINT:?}"
  --config-path="$config" --config-name=neva_pretrain.yaml
  # Hydra writes into its run folder: never the container's working folder, never a read-only one (D16).
  "hydra.run.dir=$work" hydra.output_subdir=null
)
cd "$work"
say "node $rank of $nodes: torchrun ${arguments[*]}"

# Each node keeps its own log beside the results, outside NeMo's log folder, whose files NeMo moves (D06). A progress
# bar ends in a carriage return, and the container runtime shows nothing before a line ends.
mkdir -p "$results/logs"
log=$results/logs/node-$(printf '%05d' "$rank").log
exec 3> >(stdbuf -oL tr '\r' '\n' | tee -a "$log")
writer=$!
torchrun "${arguments[@]}" >&3 2>&1 3>&- &
child=$!
exec 3>&-
# Hand signals on, so that torchrun can stop its workers.
trap 'kill -TERM "$child" 2>/dev/null' TERM INT
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child" || code=$?; done
# The end of PID 1 would cut off the log's last lines, the ones that tell why; an orphan that holds it open may not stay.
for (( i = 0; i < 100; i++ )); do kill -0 "$writer" 2>/dev/null || break; sleep 0.1; done
exit "$code"
