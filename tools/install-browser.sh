#!/bin/sh
# The browser that the tests drive: Debian's Chromium, unless one is there.
set -eu
command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1 && exit 0
echo "Installing Chromium for the browser tests (apt-get)"
if [ "$(id -u)" = 0 ]; then root=; else root=sudo; fi
$root apt-get update -qq
$root apt-get install -y -qq chromium >/dev/null
