#!/bin/sh
# A task of the series. What it writes follows from its id alone, so that it can be checked byte for byte.
# usage: task.sh LEDGER ENDED first|last SECONDS
# LEDGER gets the id by one appending write, before all else (first) or when all else has been done (last).
set -e
id=$SCITQ_TASK_ID ledger=$1 ended=$2 effect=$3 seconds=$4

if [ "$effect" = first ]; then printf '%s\n' "$id" >>"$ledger"; fi

# how many lines a stream has: often none, mostly few, sometimes some hundred kilobytes
count() { # SALT
  mixed=$(((id * 2654435761 + $1 * 40503) % 1000003))
  class=$((mixed % 100)) rest=$((mixed / 100))
  if [ $class -lt 30 ]; then echo 0
  elif [ $class -lt 75 ]; then echo $((1 + rest % 40))
  elif [ $class -lt 95 ]; then echo $((200 + rest % 1800))
  else echo $((8000 + rest % 8000))
  fi
}
out=$(count 1) err=$(count 2)

if [ "$out" -gt 0 ]; then printf '\000\377\200\r'; seq -f "$id out %08.0f" 1 $((out / 2)); fi
if [ "$err" -gt 0 ]; then printf '\000\377\200\r' >&2; seq -f "$id err %08.0f" 1 $((err / 2)) >&2; fi
if [ "$seconds" != 0 ]; then sleep "$seconds"; fi
if [ "$out" -gt 0 ]; then seq -f "$id out %08.0f" $((out / 2 + 1)) "$out"; printf end; fi
if [ "$err" -gt 0 ]; then seq -f "$id err %08.0f" $((err / 2 + 1)) "$err" >&2; printf end >&2; fi

if [ "$effect" = last ]; then printf '%s\n' "$id" >>"$ledger"; fi
printf '%s\n' "$id" >>"$ended"
