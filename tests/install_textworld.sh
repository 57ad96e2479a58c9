#!/bin/sh
# Install ALFWorld's own engine (extra "textworld"), with its compilers where that is allowed.
# HARNESS_REQUIRE_TEXTWORLD=1 makes a failure fatal; otherwise one line says what is skipped.
set -u
python=$1

give_up() {
    if [ "${HARNESS_REQUIRE_TEXTWORLD:-0}" = 1 ]; then
        echo "textworld: $1" >&2
        exit 1
    fi
    echo "ALFWorld's own engine is not installed ($1): its tests are skipped."
    exit 0
}

"$python" -c 'import textworld, alfworld' 2>/dev/null && exit 0
lacking=
for tool in g++ make cmake; do
    command -v "$tool" >/dev/null || lacking="$lacking $tool"
done
if [ -n "$lacking" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        { apt-get update && apt-get install -y g++ make cmake; } >/dev/null 2>&1 ||
            give_up "could not install$lacking"
    else
        give_up "needs$lacking"
    fi
fi
echo "Building ALFWorld's own engine (about 3 minutes, once) ..."
"$python" -m pip --disable-pip-version-check -q install -c constraints.txt textworld alfworld ||
    give_up "the build failed"
