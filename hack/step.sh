#!/usr/bin/env bash
# Runs one step of a longer job: one line when it starts to matter, everything else in a log file.
#
#   hack/step.sh NAME COMMAND [ARGUMENT...]
#
# The log is out/logs/NAME.log. When the step fails, the end of its log is shown and its exit code given on. On a terminal a line
# shows how far it is: compilers name each package that they finish, and STEP_TOTAL (a command that prints a number) says how
# many there are.
set -uo pipefail
name=$1
shift
logs=${KERBSIDE_LOGS:-out/logs}
mkdir -p "$logs"
log=$logs/$name.log
started=$SECONDS

"$@" >"$log" 2>&1 &
child=$!
# Ctrl-C ends the step as well as this script.
trap 'kill -TERM "$child" 2>/dev/null; wait "$child"; exit 130' INT TERM

if [ -t 1 ]; then
  total=0
  [ -n "${STEP_TOTAL:-}" ] && total=$(bash -c "$STEP_TOTAL" 2>/dev/null || echo 0)
  width=24
  while kill -0 "$child" 2>/dev/null; do
    done_=$(grep -cE '^ *(Compiling|Checking) |^[a-z0-9_.-]+(/[A-Za-z0-9_.~-]+)*$' "$log" 2>/dev/null)
    if [ "$total" -gt 0 ]; then
      [ "$done_" -gt "$total" ] && done_=$total
      full=$((done_ * width / total))
      bar=$(printf '%*s' "$full" '' | tr ' ' '#')$(printf '%*s' $((width - full)) '' | tr ' ' '.')
      printf '\r\033[K  %-16s %4d s  [%s] %d of %d packages' "$name" $((SECONDS - started)) "$bar" "$done_" "$total"
    else
      printf '\r\033[K  %-16s %4d s' "$name" $((SECONDS - started))
    fi
    sleep 0.5
  done
  printf '\r\033[K'
fi

wait "$child"
code=$?
if [ "$code" -eq 0 ]; then
  # A step may leave one line worth reading: the last that starts with its name and a colon.
  note=$(grep -E "^$name: " "$log" | tail -1 | sed "s/^$name: //")
  printf '  ok    %-16s %4d s  %s\n' "$name" $((SECONDS - started)) "$note"
else
  printf '  FAIL  %-16s %4d s  (exit code %d; all of it: %s)\n' "$name" $((SECONDS - started)) "$code" "$log"
  tail -n "${STEP_TAIL:-60}" "$log" | sed 's/^/    | /'
fi
exit "$code"
