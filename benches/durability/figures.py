"""Figures as they are printed: a line of JSON each."""
import json
import statistics
import sys

# Where progress is told.
WATCHED = sys.stderr


def say(figure, **values):
  print(json.dumps({'figure': figure, **{name: rounded(value) for name, value in values.items()}}), flush=True)


def told(*words):
  """For whoever watches."""
  print(*words, file=WATCHED, flush=True)


def rounded(value):
  """With four digits that count, or as whole numbers."""
  if isinstance(value, (list, tuple)):
    return [rounded(each) for each in value]
  if isinstance(value, float):
    return round(value) if abs(value) >= 10000 else float('%.4g' % value)
  return value


def median(values):
  return statistics.median(values)


def percentile(values, part):
  ordered = sorted(values)
  return ordered[min(int(len(ordered) * part), len(ordered) - 1)]


def pairs(rounds, measure, intervals):
  """Measures with each of the intervals in turn, again and again; gives a list for each."""
  found = [[] for _ in intervals]
  for number in range(rounds):
    for interval, values in zip(intervals, found):
      values.append(measure(interval))
      told('round %d of %d, %s: %s' % (
          number + 1, rounds, 'checkpoints each %d ms' % interval if interval else 'no checkpoints', values[-1]))
  return found
