#!/usr/bin/env bash
# Train and sweep recipes with three seeds each; runs that are finished are skipped, so the command can be repeated.
#   scripts/run_study.sh recipes/fashion-mnist/sgd.yaml recipes/fashion-mnist/filters.yaml ...
set -euo pipefail
for recipe in "$@"; do
  for seed in ${SEEDS:-0 1 2}; do
    name=$(sed -n 's/^name: //p' "$recipe" | sed "s/{seed}/$seed/")
    if [ ! -e "runs/$name/model.safetensors" ]; then
      pliant train "$recipe" -o "seed=$seed" --overwrite
    fi
    if [ ! -e "runs/$name/plot.png" ]; then
      pliant sweep "runs/$name"
    fi
  done
done
