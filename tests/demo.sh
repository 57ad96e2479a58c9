#!/bin/sh
# The main job on built-in data: agents without a model and the shipped language model, one table.
# HARNESS, DEMO_TASKS and DEMO_OUT come from the Makefile.
set -eu
rm -rf "$DEMO_OUT"
for agent in ${DEMO_AGENTS:-oracle expert random teacher-tiny}; do
    echo "== $agent plays $DEMO_TASKS"
    "$HARNESS" run --agent "$agent" --env alfworld --tasks "$DEMO_TASKS" --out "$DEMO_OUT" >/dev/null
done
echo
"$HARNESS" leaderboard --out "$DEMO_OUT"
"$HARNESS" leaderboard --out "$DEMO_OUT" --markdown >"$DEMO_OUT/leaderboard.md"
echo "The same as Markdown: $DEMO_OUT/leaderboard.md"
echo "Next: $HARNESS run --agent teacher-tiny --env alfworld     (README.md goes on from here)"
