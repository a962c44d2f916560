#!/usr/bin/env bash
# The relative distance of a k-support model to its pruned version, for k = 10 % ... 100 %: runs/k-distance.
set -euo pipefail
for seed in 0 1 2; do
  for k in 0.1 0.2 0.3 0.4 0.5 1.0; do
    name="k-distance/k$k-$seed"
    [ -e "runs/$name/model.safetensors" ] ||
      pliant train recipes/k-distance/k-support.yaml -o "method.k=$k" -o "seed=$seed" -o "name=$name" --overwrite
  done
done
