#!/bin/sh
# The main job on built-in data: agents without a model and the shipped language models in three
# environments; a table an environment, on the terminal and as a page.
# HARNESS, DEMO_TASKS and DEMO_OUT come from the Makefile.
set -eu
rm -rf "$DEMO_OUT"
play() {
    echo "== $1 plays $DEMO_TASKS of $2"
    "$HARNESS" run --agent "$1" --env "$2" --tasks "$DEMO_TASKS" --out "$DEMO_OUT" >/dev/null
}
for env in alfworld webshop hotpotqa; do
    for agent in oracle expert random ${DEMO_MODELS:-ours-tiny token-tiny teacher-tiny}; do
        play "$agent" "$env"
    done
done
echo
"$HARNESS" leaderboard --out "$DEMO_OUT"
"$HARNESS" leaderboard --out "$DEMO_OUT" --markdown >"$DEMO_OUT/leaderboard.md"
"$HARNESS" compare ours-tiny token-tiny --out "$DEMO_OUT" --env alfworld
echo "The tables as Markdown: $DEMO_OUT/leaderboard.md"
echo "As a page:              $("$HARNESS" leaderboard --out "$DEMO_OUT" --page "$DEMO_OUT/leaderboard.html")"
echo "Episodes side by side:  $("$HARNESS" view teacher-tiny ours-tiny --out "$DEMO_OUT" --env alfworld --page "$DEMO_OUT/episodes.html")"
echo "Next: $HARNESS run --agent ours-tiny --env alfworld     (README.md goes on from here)"
