#!/usr/bin/env bash
# The table of docs/benchmarks.md on a GPU, in steps of a few minutes: a machine may be lent for minutes at a time.
#
#   STOKER=…/stoker PYTHON=…/bin/python MODEL=…/folder OUT=…/results bench/gpu.sh STEP...
#
# Works without a network. PYTHON has vLLM; MODEL is a folder, or a name on the hub. LOAD_FORMAT=dummy needs no weights. Each step
# adds its rounds to OUT/bench.json (OUT/profile.json for profiles), prints the table so far and leaves its logs in OUT/logs. WORK
# (/tmp/stoker-bench) keeps the JSON between steps, if OUT does not.
#
# Seconds that a step takes, for a model of 4 billion parameters on an H100 whose engine loads in 60 s (imports included) and makes
# 11,000 tokens a second; the first step after a change of the engine's arguments compiles for another 70 s. Estimates, not figures:
#
#   one-file-1       390   stoker, bare handlers: one file of 1,024; 8 files of 64
#   one-file-2       370   LLM.chat in one call, and file by file; run-batch as shipped: the same files
#   one-file-serve   200   vllm serve and an HTTP client: one file of 1,024
#   one-file-serve-1024    the same with max_num_seqs=1024; as shipped it is less than in LLM and stoker
#   starts           110   stoker: ten files of 100, with its start
#   starts-script    390   LLM.chat, a process for each file: half of the ten files (PART=1/2; again with PART=2/2)
#   large-1          230   stoker: one file of 3,000, as it is and longest answers first
#   large-2          230   bare handlers: the same, in one process
#   large-3          150   LLM.chat: the file of 3,000
#   tuned            230   stoker with TUNED="NAME=VALUE ...": the file of 3,000
#   replicas         250   stoker with REPLICAS=2 on one GPU, 512 sequences each: the file of 3,000
#   tune             500   a sweep: TRY="NAME=A,B ..." replaces the arguments that are tried
#   profile-N         90   bare handlers with N=256, 512, 1024 sequences: time of each step, CPU of front end and engine, stacks
#   profile-graphs   170   the same with CUDA graphs for 1,024 sequences
#   profile-sync     130   the same without async scheduling
#   profile-torch    150   a second of full work by vLLM's torch profiler, in OUT/torch
#   profile-serve    160   vllm serve with one front end
#   profile-serve-2  160   vllm serve with two front ends over one engine
set -euo pipefail

: "${STOKER:?the stoker binary}" "${PYTHON:?a Python that has vLLM}" "${MODEL:?a model}" "${OUT:?a folder for results}"
WORK=${WORK:-/tmp/stoker-bench}
mkdir -p "$OUT/logs" "$WORK"
OUT=$(cd "$OUT" && pwd)
export HF_HUB_OFFLINE=${HF_HUB_OFFLINE:-1} VLLM_NO_USAGE_STATS=1
export VLLM_USE_FLASHINFER_SAMPLER=${VLLM_USE_FLASHINFER_SAMPLER:-0} # FlashInfer's sampler compiles itself, with nvcc

config=$WORK/config.toml
cat > "$config" <<TOML
[engine]
kind = "vllm"
model = "$MODEL"
python = "$PYTHON"
max_model_len = ${MAX_MODEL_LEN:-4096}
gpu_memory_utilization = ${GPU_MEMORY_UTILIZATION:-0.9}
[engine.args]
load_format = "${LOAD_FORMAT:-auto}"
TOML

# bench NAME JSON ARGS...: a run of stoker bench, whose rounds are added to JSON.
bench() {
  local name=$1 json=$2; shift 2
  local dir=$WORK/$name-$(date +%s)
  local rc=0
  # A limit that comes before the machine's: what was measured until then is written.
  timeout "${LIMIT:-560}" "$STOKER" --config "$config" bench --dir "$dir" -o "$WORK/$json" --rounds "${ROUNDS:-2}" --passes 1 "$@" \
    > "$OUT/logs/$name.out" 2> "$OUT/logs/$name.err" || rc=$?
  for log in "$dir"/*/log; do
    [ -e "$log" ] && cp "$log" "$OUT/logs/$name-$(basename "$(dirname "$log")").log"
  done
  [ -e "$WORK/$json" ] && cp "$WORK/$json" "$OUT/$json"
  cat "$OUT/logs/$name.err" "$OUT/logs/$name.out"
  rm -rf "$dir"
  return $rc
}

# profile NAME ARGS...: steady decoding of 1,024 requests, shorter than the table's.
profile() {
  local name=$1; shift
  ROUNDS=1 bench "$name" profile.json --scenario one-file --mean 200 --max 400 --stacks "$OUT/stacks/$name" "$@"
  for file in "$OUT/stacks/$name"/*.txt; do
    echo "-- $(basename "$file"): samples by innermost function, and by innermost function of vLLM or torch"
    innermost '' "$file"
    innermost 'core|llm|model|runner|detok|output|serv|sched|proc|msgpack|serial|sampl' "$file"
  done
}

innermost() { # innermost REGEXP FILE: the functions that match and have most samples, of collapsed stacks
  awk -v want="$1" '{ n = $NF; sub(/ [0-9]+$/, ""); all += n; k = split($0, f, ";"); while (k > 1 && f[k] !~ want) k--; of[f[k]] += n }
    END { for (name in of) printf "%6.1f %%  %s\n", 100 * of[name] / all, name }' "$2" | sort -rn | sed -n 1,15p
}

words() { # words FLAG WORD...: FLAG before each word
  local flag=$1; shift
  for word in "$@"; do printf '%s\n%s\n' "$flag" "$word"; done
}

for step in "${@:?a step, see the head of this script}"; do
  echo "== $step =="
  began=$SECONDS
  case $step in
    one-file-1) bench "$step" bench.json --scenario one-file,files --way stoker,handlers ;;
    one-file-2) bench "$step" bench.json --scenario one-file,files --way llm-chat,llm-chat-files,run-batch ;;
    one-file-serve) bench "$step" bench.json --scenario one-file --way serve ;;
    one-file-serve-1024) bench "$step" bench.json --scenario one-file --way serve --set max_num_seqs=1024 ;;
    starts) ROUNDS=1 bench "$step" bench.json --scenario starts --way stoker --warm-up 0 ;;
    starts-script) ROUNDS=1 bench "$step" bench.json --scenario starts --way llm-chat-files --warm-up 0 --part "${PART:-1/2}" ;;
    large-1) ROUNDS=1 bench "$step" bench.json --scenario large,large-longest-first --way stoker ;;
    large-2) ROUNDS=1 bench "$step" bench.json --scenario large --way handlers,handlers-longest-first ;;
    large-3) ROUNDS=1 bench "$step" bench.json --scenario large --way llm-chat ;;
    tuned)
      mapfile -t set < <(words --set ${TUNED:?arguments such as max_num_seqs=512})
      ROUNDS=1 bench "$step" bench.json --scenario large --way stoker "${set[@]}" ;;
    replicas) ROUNDS=1 bench "$step" bench.json --scenario large --way stoker --replicas "${REPLICAS:-2}" --set max_num_seqs=512 ;;
    tune)
      mapfile -t try < <(words --try ${TRY:-max_num_seqs=256,512 max_cudagraph_capture_size=1024})
      ROUNDS=1 bench "$step" tune.json --tune --scenario one-file --mean 200 --max 400 "${try[@]}" ;;
    profile-256|profile-512|profile-1024) profile "$step" --way handlers --set max_num_seqs="${step#profile-}" ;;
    profile-graphs) profile "$step" --way handlers --set max_num_seqs=1024 --set max_cudagraph_capture_size=1024 ;;
    profile-sync) profile "$step" --way handlers --set max_num_seqs=1024 --set async_scheduling=false ;;
    profile-torch)
      profile "$step" --way handlers --warm-up 0 \
        --set "profiler_config={\"profiler\": \"torch\", \"torch_profiler_dir\": \"$OUT/torch\", \"torch_profiler_with_stack\": false}" ;;
    profile-serve) profile "$step" --way serve ;;
    profile-serve-2) profile "$step" --way serve --set api_server_count=2 ;;
    *) echo "no step $step" >&2; exit 2 ;;
  esac
  echo "== $step took $((SECONDS - began)) s =="
done
