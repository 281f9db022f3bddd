#!/usr/bin/env bash
# Builds wheel and sdist into dist/, and tries both where nothing of this checkout helps: as another user where
# that is possible, with an empty environment, LANG=C, a working directory that cannot be written, and paths
# with spaces and letters beyond ASCII.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
place="$work/ein Ordner für ümläuts"
mkdir -p "$place/home" "$place/fixed"
pip() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"; }

rm -rf dist
"${PYTHON:-python3.11}" -m venv "$work/tools"
pip "$work/tools" build
"$work/tools/bin/python" -m build --outdir dist . > "$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }

if [ "$(id -u)" = 0 ] && command -v setpriv > /dev/null; then
	as_other() { setpriv --reuid=65534 --regid=65534 --clear-groups "$@"; }
else
	as_other() { sudo -n -u nobody "$@"; }
fi
if ! as_other "${PYTHON:-python3.11}" -c "" 2> /dev/null; then
	echo "As this user, since it is not root or another user cannot run its Python: give PYTHON=/usr/bin/python3"
	as_other() { "$@"; }
fi
# $1: a folder with bin/; the rest: a command in it.
run() { (cd "$place/fixed" && as_other env -i HOME="$place/home" PATH="$1/bin:/usr/bin:/bin" LANG=C "${@:2}"); }

"${PYTHON:-python3.11}" -m venv "$place/wheel"
pip "$place/wheel" dist/*.whl
"${PYTHON:-python3.11}" -m venv "$place/sdist"
pip "$place/sdist" "$(echo dist/*.tar.gz)[pandas,parquet,polars]" pytest pytest-timeout hypothesis
mkdir "$place/source"
tar -xzf dist/*.tar.gz -C "$place/source" --strip-components 1
chmod 755 "$work"
if [ "$(id -u)" = 0 ]; then chown -R 65534:65534 "$place/home" "$place/source"; else chmod -R go+rwX "$place/home" "$place/source"; fi
chmod 555 "$place/fixed"

for file in CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE Makefile README.md SECURITY.md constraints.txt docs/index.md; do
	[ -f "$place/source/$file" ] || { echo "the sdist lacks $file"; exit 1; }
done
run "$place/wheel" flops-fit --help > /dev/null
run "$place/wheel" flops-fit predict --law hoffmann2022 1e24 > /dev/null
run "$place/wheel" flops-fit reference show llama3_2024 --csv > "$work/runs.csv"
cp "$work/runs.csv" "$place/Läufe 1.csv" && chmod 644 "$place/Läufe 1.csv"
run "$place/wheel" flops-fit fit "$place/Läufe 1.csv" --predict 1e24 --report "$place/home/Bericht ä.html" > "$work/answer"
grep -q "1e+24" "$work/answer"
[ -s "$place/home/Bericht ä.html" ]
run "$place/wheel" flops-fit fit "$place/Läufe 1.csv" --json > "$work/answer.json"
"$place/wheel/bin/python" -m json.tool "$work/answer.json" > /dev/null
run "$place/wheel" flops-fit init "$place/home/my sweep" > /dev/null
said=$(run "$place/wheel" flops-fit plan "$place/home/my sweep/sweep.toml" --trust 2>&1 || true)
case $said in *"flops-fit[train]"*) ;; *) echo "plan without torch does not say what to install: $said"; exit 1 ;; esac
run "$place/sdist" sh -c 'cd "$0" && exec python -m pytest -q tests/table tests/laws/test_law.py tests/test_files.py' "$place/source" \
	> "$work/tests" 2>&1 || { tail -30 "$work/tests"; exit 1; }
tail -1 "$work/tests"
ls dist
