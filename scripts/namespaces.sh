#!/usr/bin/env bash
# Four ranks in four network namespaces, 20 ms apart, by each schedule: right numbers, and how long each took.
# Needs root and iproute2. The delay is laspc's own (--link): it needs no netem in the kernel.
set -euo pipefail
cd "$(dirname "$0")/.."
bridge=lasp-bridge
export LASPC_TOKEN; LASPC_TOKEN=$(head -c 16 /dev/urandom | od -An -tx1 | tr -d ' \n')
clean() {
  for rank in 0 1 2 3; do ip netns del "lasp$rank" 2>/dev/null || true; done
  ip link del $bridge 2>/dev/null || true
}
trap clean EXIT
clean
mkdir -p out
ip link add $bridge type bridge
ip link set $bridge up
for rank in 0 1 2 3; do
  ip netns add "lasp$rank"
  ip link add "laspv$rank" type veth peer name eth0 netns "lasp$rank"
  ip link set "laspv$rank" master $bridge up
  ip -n "lasp$rank" addr add "10.77.0.$((rank + 1))/24" dev eth0
  ip -n "lasp$rank" link set eth0 up
  ip -n "lasp$rank" link set lo up
done
for schedule in ring allgather allscan tree; do
  times=()
  for _ in 1 2 3 4 5; do
    pids=()
    for rank in 1 2 3 0; do
      RANK=$rank WORLD_SIZE=4 MASTER_ADDR=10.77.0.1 MASTER_PORT=29500 ip netns exec "lasp$rank" \
        node dist/laspc.js run dsl-examples/gla.lasp --device cpu --threads 1 --schedule $schedule \
        --bind "10.77.0.$((rank + 1))" --link latency=20ms,bandwidth=1GB/s --dim T=256,K=32,V=32,H=2 \
        --backward --warmup 5 --verify >"out/namespaces-$rank.txt" 2>"out/namespaces-$rank.log" &
      pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid"; done
    grep -q ": ok against" out/namespaces-0.txt
    times+=("$(grep -o 'steps took [0-9.]*' out/namespaces-0.log | cut -d' ' -f3)")
  done
  # The run that other work on the machine held up least.
  echo "$schedule: right, $(printf '%s\n' "${times[@]}" | sort -n | head -1) ms of ${times[*]}"
done
