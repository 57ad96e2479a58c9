#!/bin/sh
# Install Chromium, in which the pages are tested, where that is allowed.
# HARNESS_REQUIRE_CHROMIUM=1 makes a failure fatal; otherwise one line says what is skipped.
set -u
command -v chromium >/dev/null || command -v chromium-browser >/dev/null && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Chromium for the tests of the pages ..."
    { apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null 2>&1 && exit 0
fi
if [ "${HARNESS_REQUIRE_CHROMIUM:-0}" = 1 ]; then
    echo "chromium: could not be installed" >&2
    exit 1
fi
echo "Chromium is not installed: the tests of the pages in a browser are skipped."
