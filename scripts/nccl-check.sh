#!/bin/sh
# Runs three rules by every schedule on the GPUs of this machine, forwards and back, over NCCL, and says of each whether
# the numbers are right and what was sent:
#
#   [NODE=path/to/node] [LASPC_NCCL=path/to/libnccl.so.2] [DIM=B=1,H=4,...] scripts/nccl-check.sh [GPUS]
#
# Needs dist (npm run build), dsl-examples and node_modules with koffi; the rest of the repository need not be there.
set -u
gpus=${1:-2}
# Small, since the float64 reference that all is compared with is slow.
dim=${DIM:-B=1,H=4,T=200,K=64,V=64}
node=${NODE:-node}
root=$(cd "$(dirname "$0")/.." && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0

# What a report says, in one line; fails unless the numbers are right.
summary='
const [file, name] = process.argv.slice(1);
const report = JSON.parse(require("fs").readFileSync(file, "utf8"));
const worst = Math.max(...Object.values(report.outputs).map(({ rmse_ratio }) => rmse_ratio));
const sent = `sent ${report.bytes_sent_per_rank} bytes in ${report.messages_sent_per_rank} messages`;
console.log(`${name} ${report.ok ? "ok" : "WRONG"}  worst error ${worst.toExponential(1)}, ${sent}, ${report.wall_ms.toFixed(0)} ms`);
process.exitCode = report.ok ? 0 : 1;
'

# check RULE SCHEDULE TRANSPORT [MORE ...]
check() {
  name=$(printf '%-16s %-10s %-16s %s' "$1" "$2" "$3" "$4")
  rule=$1 schedule=$2 transport=$3
  shift 3
  # shellcheck disable=SC2086
  if "$node" "$root/dist/laspc.js" run "$root/dsl-examples/$rule.lasp" --device cuda --devices "$gpus" --transport "$transport" \
    --schedule "$schedule" --dim "$dim" $1 --verify --json >"$folder/report" 2>"$folder/said"; then
    "$node" -e "$summary" "$folder/report" "$name" || failed=1
  else
    echo "$name FAILED"
    tail -n 5 "$folder/said" "$folder/report"
    failed=1
  fi
}

for rule in lightning gla gated-delta-net; do
  for schedule in ring allgather allscan tree; do
    check $rule $schedule nccl ""
    check $rule $schedule nccl --backward
  done
done
check lightning ring nccl --overlap
check gla allscan nccl-in-process --backward
check gated-delta-net tree nccl-in-process --backward
exit $failed
