#!/bin/sh
# The tables of this folder, from nothing: runs what is not done yet in runs-*/ and keeps it here. Hours on two cores; resumable.
# Usage: make.sh FASHION MOVIELENS SCALING   (folders or zips of the public files; "" leaves a set out)
set -eu
moon=${MOON:-moon}
here=$(dirname "$0")
core="training_tokens negatives sequence_length exchange_rate funnel next_gpu_hour"
rest="model_size compute_optimal ablations iterations"

answer() { # name of the set, dataset ("" for the planted world), questions
    name=$1 data=$2
    shift 2
    for question in "$@"; do
        "$moon" run "$question" --out "runs-$name" ${data:+--data "$data"}
    done
    "$moon" keep "$@" --out "runs-$name" --to "$here/$name"
}

# shellcheck disable=SC2086  # lists of names
answer planted "" $core $rest
if [ -n "${1:-}" ]; then
    [ -d data/fashion ] || "$moon" data import fashion "$1" data/fashion
    [ -d data/fashion-users ] ||
        "$moon" data simulate data/fashion data/fashion-users --by colour articleType --users 3000 --text-searches
    # shellcheck disable=SC2086
    answer fashion data/fashion-users $core $rest
fi
if [ -n "${2:-}" ]; then
    [ -d data/movielens ] || "$moon" data import movielens "$2" data/movielens
    answer movielens data/movielens sequence_length exchange_rate funnel
fi
if [ -n "${3:-}" ]; then
    "$moon" run published_laws --out runs-published --data "$3"
    "$moon" keep published_laws --out runs-published --to "$here/published"
fi
"$moon" redraw "$here"
