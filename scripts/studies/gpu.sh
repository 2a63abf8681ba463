#!/usr/bin/env bash
# Check what only a machine with a GPU can tell, in at most 12 minutes; the tables can be committed.
#
#     bash scripts/studies/gpu.sh                  into outputs/gpu
#     bash scripts/studies/gpu.sh docs/gpu         into another folder
#     bash scripts/studies/gpu.sh --dry [FOLDER]   print the stages and their commands, run nothing
#     PYTHON=python3 bash scripts/studies/gpu.sh   use this Python instead of installing .venv
#
# Every stage has a limit in seconds of its own; one that fails or runs out of time stops no other. Written are
# stages.md (how each ended), summary.json (of the training), memory.csv, benchmark.md and benchmark.csv (the GPU in
# bfloat16 next to the CPU in float32), and machine.csv. The exit code is the number of stages that failed;
# cpu and gpu fail, too, where a row of the benchmark does not hold.
set -u
dry=no
[ "${1:-}" = "--dry" ] && dry=yes && shift
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
out="${1:-$root/outputs/gpu}"
python="${PYTHON:-$root/.venv/bin/python}"
items="strides packing routes tokens encoder"
failed=0

stage() { # name, limit in seconds, command ...
    local name="$1" limit="$2" begun=$SECONDS code last
    shift 2
    if [ "$dry" = yes ]; then
        printf '%-9s %4s s   %s\n' "$name" "$limit" "$*"
        return
    fi
    echo "== $name (at most $limit s): $*"
    timeout --kill-after=5 "$limit" "$@" >"$work/$name.log" 2>&1
    code=$?
    tail -n 20 "$work/$name.log"
    last="$(tail -n 1 "$work/$name.log" | tr -d '\r|' | sed "s#$work/##g; s#$root/##g; s#$root#.#g")"
    [ "$code" = 0 ] || failed=$((failed + 1))
    echo "| $name | $code | $((SECONDS - begun)) | $limit | ${last:0:200} |" >>"$out/stages.md"
}

if [ "$dry" = yes ]; then
    work=WORK
else
    mkdir -p "$out"
    out="$(cd "$out" && pwd)"
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    printf '| stage | exit code | seconds | limit | last line |\n| --- | ---: | ---: | ---: | --- |\n' >"$out/stages.md"
    export PYTHONPATH="$root/src:$root"
    cd "$root" || exit 1
fi

[ -n "${PYTHON:-}" ] || stage install 240 python3 "$root/scripts/bootstrap.py"
stage machine 10 nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv
stage tests 100 "$python" -m pytest -q -m gpu -p no:cacheprovider tests/test_gpu.py
stage train 90 "$python" train.py trainer=gpu model=learned_skip trainer.max_epochs=3 "hydra.run.dir=$work/run"
stage cpu 100 "$python" -m scripts.studies benchmark --quick --device cpu --only $items --out "$work/cpu"
stage gpu 90 "$python" -m scripts.studies benchmark --quick --device cuda --bf16 --only $items --out "$work/gpu"
stage memory 40 "$python" -m scripts.studies.bench.gpu memory "$out"
stage tables 10 "$python" -m scripts.studies.bench.gpu beside "$work/cpu/table.json" "$work/gpu/table.json" "$out"
[ "$dry" = yes ] && exit 0
[ -s "$work/machine.log" ] && cp "$work/machine.log" "$out/machine.csv"
[ -f "$work/run/summary.json" ] && cp "$work/run/summary.json" "$out/summary.json"
echo "$out"
exit "$failed"
