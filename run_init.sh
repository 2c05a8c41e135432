#!/usr/bin/env bash
# The published initial step on PASCAL VOC 2012, task 15-1. Usage: DATA_ROOT=<folder> bash run_init.sh [more flags]
set -euo pipefail
: "${DATA_ROOT:?expected the data set: DATA_ROOT=<folder with JPEGImages> bash run_init.sh}"
MODEL=${MODEL:-deeplabv3bga_resnet101} DATASET=${DATASET:-voc} TASK=${TASK:-15-1} SUBPATH=${SUBPATH:-BARM}
EPOCH=${EPOCH:-50} BATCH=${BATCH:-16} LR=${LR:-0.001} THRESH=${THRESH:-0.7} LOSS=${LOSS:-bce_loss} CURR=${CURR:-0}
result_dir=checkpoints/$SUBPATH/$TASK
mkdir -p "$result_dir"
python train.py --data_root "$DATA_ROOT" --model "$MODEL" --crop_val --lr "$LR" \
    --batch_size "$BATCH" --train_epoch "$EPOCH" --loss_type "$LOSS" \
    --dataset "$DATASET" --task "$TASK" --lr_policy poly \
    --pseudo --pseudo_thresh "$THRESH" --bn_freeze --amp \
    --curr_step "$CURR" --subpath "$SUBPATH" --initial --overlap "$@" \
    | tee "$result_dir/train-$(date +%Y%m%d_%H%M%S).log"
