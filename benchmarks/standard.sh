#!/usr/bin/env bash
# The standard measurements: `make bench` on a processor, `make bench-gpu` on a GPU. Each writes a bench.json with its
# provenance below OUT; the page docs/speed.md says what they mean.
set -euo pipefail

BARM=${BARM:-barm}
OUT=${OUT:-runs/bench}
DATA=${DATA:-$OUT/data}
DEVICE=${DEVICE:-auto}
MODEL=${MODEL:-deeplabv3bga_resnet101}
CROP=${CROP:-513}
BATCH=${BATCH:-2}
ROUNDS=${ROUNDS:-5}
GROWTH_ROUNDS=${GROWTH_ROUNDS:-3}
LOADER_ROUNDS=${LOADER_ROUNDS:-25}
CONSTANT_ROUNDS=${CONSTANT_ROUNDS:-31}
CONSTANT_CROP=${CONSTANT_CROP:-161}
BACKBONES=${BACKBONES:-resnet50 tf_efficientnet_lite0 mobilenetv2_100 convnext_atto} # dense; depthwise of three kinds
STEP_BACKBONES=${STEP_BACKBONES:-tf_efficientnet_lite0 convnext_atto vit_small_patch16_224} # beside ResNet-101
STEP_CROP=${STEP_CROP:-257}

measure() {
    local name=$1
    shift
    echo "== $name"
    "$BARM" bench --quiet --device "$DEVICE" --model "$MODEL" --crop "$CROP" --data "$DATA" --out "$OUT/$name" "$@"
}

measure voc-15-1 --batch "$BATCH" --rounds "$ROUNDS"
measure loader --rounds "$LOADER_ROUNDS" --part loader
measure voc-15-1-losses --batch 4 --rounds "$ROUNDS" --part losses
measure ade-100-10 --task 100-10 --classes 150 --batch 4 --rounds "$ROUNDS" --part losses
measure ade-100-10-evaluation --task 100-10 --classes 150 --batch "$BATCH" --rounds "$ROUNDS" --part evaluation
for backbone in $STEP_BACKBONES; do
    measure "step-$backbone" --model "$backbone" --crop "$STEP_CROP" --batch "$BATCH" --rounds "$ROUNDS" --part step
done
for backbone in $BACKBONES; do
    OMP_NUM_THREADS=1 measure "constant-$backbone" --model "$backbone" --crop "$CONSTANT_CROP" --batch 8 \
        --rounds "$CONSTANT_ROUNDS" --part constant
done
measure growth --batch "$BATCH" --rounds "$GROWTH_ROUNDS" --part growth
measure profile --batch "$BATCH" --part profile
