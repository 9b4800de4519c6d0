#!/usr/bin/env bash
# apache-beam 2.77.0 (Python).
# Guess: an element lies within its window, start <= timestamp < end, wherever it is looked at.
# Really: Python assigns windows by microseconds and sends milliseconds, cut TOWARD ZERO. Before 1970 that moves a time
#   forward, so in the last millisecond of a window the element arrives with a timestamp that is its window's end.
# Hurt: a runner that checks or uses the bound (late data, holds, window assignment of its own by the timestamp received): it
#   refuses or misplaces valid elements; and pipelines that window again after any shuffle: another window than before it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet apache-beam==2.77.0
cat > finding.py <<'PYTHON'
from apache_beam.coders import coders
from apache_beam.transforms import window
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

coder = coders.WindowedValueCoder(coders.VarIntCoder(), coders.IntervalWindowCoder())


def within(micros):
    """Whether an element is in its ten-second window, before and after it was encoded."""
    time = Timestamp(micros=micros)
    assigned, = window.FixedWindows(10).assign(window.WindowFn.AssignContext(time))
    sent = coder.decode(coder.encode(WindowedValue(1, time, (assigned,))))
    result = [assigned.start <= t < assigned.end for t in (time, sent.timestamp)]
    print(f"{time} in {assigned}: {result[0]}; as received, {sent.timestamp}: {result[1]}")
    return result


after = within(1_500) == [True, True]
before = [within(micros) for micros in (-500, -10_000_500)] == [[True, False]] * 2
raise SystemExit(not (after and before))
PYTHON
venv/bin/python finding.py
# Seen:
#   Timestamp(0.001500) in [0.0, 10.0): True; as received, Timestamp(0.001000): True
#   Timestamp(-0.000500) in [-10.0, 0.0): True; as received, Timestamp(0): False
#   Timestamp(-10.000500) in [-20.0, -10.0): True; as received, Timestamp(-10): False
