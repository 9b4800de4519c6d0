#!/usr/bin/env bash
# apache-beam 2.77.0 (Python), the SDK's own runner.
# Guess: GroupByKey groups what Python calls equal, as a dict or a Counter does: 1, True and 1.0 are one key, nan is none.
# Really: keys are grouped by their encoded bytes, so the coder decides, and the coder comes from a type hint. Without one 1, True,
#   1.0 and 0.0, -0.0 are all apart; with a hint of int or float the first of these fall together (and True comes back as 1), the
#   zeros stay apart; nan, equal to nothing in Python, is one key either way.
# Hurt: adding a type hint changes the groups, and with them the state of a stateful pipeline; a test against a Counter fails.
#   Authors of runners: compare bytes, never decode a key to compare it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet apache-beam==2.77.0
cat > finding.py <<'PYTHON'
from collections import Counter
import os
from typing import Tuple
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner


def groups(keys, hint=None):
    """The keys of a GroupByKey over `keys`, as the SDK's runner gives them."""
    pair = beam.Map(lambda key: (key, 1))
    pair = pair.with_output_types(Tuple[hint, int]) if hint else pair
    with beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions([])) as pipeline:
        grouped = pipeline | beam.Create([keys]) | beam.FlatMap(list) | pair | beam.GroupByKey() | beam.Keys()
        _ = grouped | beam.Map(lambda key: open("out", "a").write(repr(key) + "\n"))
    with open("out") as out:
        found = sorted(out.read().split())
    os.remove("out")
    print(f"{keys} hinted {hint}: {found}; a Counter has {len(Counter(keys))}")
    return found


nan = float("nan")
seen = [groups([1, True, 1.0]), groups([1, True], int), groups([1, 1.0], float),
        groups([0.0, -0.0]), groups([0.0, -0.0], float), groups([nan, float("nan")])]
raise SystemExit(seen != [
    ["1", "1.0", "True"], ["1"], ["1.0"], ["-0.0", "0.0"], ["-0.0", "0.0"], ["nan"]])
PYTHON
venv/bin/python finding.py
# Seen:
#   [1, True, 1.0] hinted None: ['1', '1.0', 'True']; a Counter has 1
#   [1, True] hinted <class 'int'>: ['1']; a Counter has 1
#   [1, 1.0] hinted <class 'float'>: ['1.0']; a Counter has 1
#   [0.0, -0.0] hinted None: ['-0.0', '0.0']; a Counter has 1
#   [0.0, -0.0] hinted <class 'float'>: ['-0.0', '0.0']; a Counter has 1
#   [nan, nan] hinted None: ['nan']; a Counter has 2
