"""Parts of streaming pipelines whose output is known, whatever happened on the way; for processes that are killed.

What user code writes or counts outside of Beam may happen again after a failure. So each piece ends in `Collect`, which
keeps all that it is given in its state, which counts once, and writes it down when the input is over. Every piece is a
transform of pairs (part, number) and knows what must have been collected.

Harness processes import this module by its name.
"""
import collections
import itertools
import json
import os
import sys

import apache_beam as beam
from apache_beam import pvalue
from apache_beam.coders import StrUtf8Coder, VarIntCoder
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.metrics import Metrics
from apache_beam.transforms import trigger, userstate, window
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp
from apache_beam.utils.windowed_value import PaneInfoTiming

# Numbers of a second of event time.
RATE = 100
KEYS = 7
# Seconds of a window.
WIDTH = 2
AFTER_ALL = Timestamp(10**9)
# Numbers that come so many seconds of event time too late.
LATE_EVERY, LATE_BY = 25, 3
BURST, GAP = 30, 0.2
# Numbers that are one in a set.
STEP = 40
# What is called of a piece that copies numbers, besides sources. Which numbers are copied, and how often.
COPYING = 'copies'
COPIED_EVERY, COPIES = 50, 3


def write(path, line):
  """Appends a line: at once, whoever else does."""
  file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
  try:
    os.write(file, ('%s\n' % line).encode())
  finally:
    os.close(file)


def read(path):
  if not os.path.exists(path):
    return []
  with open(path) as file:
    return file.read().splitlines()


def held_at(path):
  """Where sources wait: the number in the file."""
  lines = read(path)
  return int(lines[0]) if lines else sys.maxsize


def moment(number):
  """When a number is: exactly, which a division would not be."""
  return Timestamp(micros=number * 1_000_000 // RATE)


def key_of(number):
  return 'k%d' % (number % KEYS)


def keyed(pair):
  return key_of(pair[1]), '%s-%d' % pair


def named(pairs):
  return ['%s-%d' % pair for pair in pairs]


class Ranges(beam.RestrictionProvider):
  """Of (part, count): the numbers up to the count."""
  def initial_restriction(self, element):
    return OffsetRange(0, element[1])

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()


class Source(beam.DoFn):
  """Emits a batch of numbers, and defers what is left; each call leaves a line in the file `calls`.

  It does not go beyond the number in the file `held` while there is one, but goes on to be called.
  """
  def __init__(self, calls, held, batch, pause):
    self.calls, self.held, self.batch, self.pause = calls, held, batch, pause

  @beam.DoFn.unbounded_per_element()
  def process(
      self, element, tracker=beam.DoFn.RestrictionParam(Ranges()),
      estimator=beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())):
    return self.emit(element, tracker, estimator)

  def emit(self, element, tracker, estimator):
    part, first = element[0], tracker.current_restriction().start
    write(self.calls, '%s %d' % (part, first))
    if first >= held_at(self.held):
      tracker.defer_remainder(Duration(self.pause))
      return
    for number in itertools.takewhile(tracker.try_claim, itertools.count(first)):
      estimator.set_watermark(moment(number))
      yield TimestampedValue((part, number), moment(number))
      if number + 1 == first + self.batch:
        tracker.defer_remainder(Duration(self.pause))
        return


class BoundedSource(Source):
  """The same, said to come to an end."""
  def process(
      self, element, tracker=beam.DoFn.RestrictionParam(Ranges()),
      estimator=beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())):
    return self.emit(element, tracker, estimator)


class Collect(beam.DoFn):
  """Writes a line at the end: the name of the piece, the key, and all its values."""
  ALL = userstate.BagStateSpec('all', StrUtf8Coder())
  END = userstate.TimerSpec('end', TimeDomain.WATERMARK)

  def __init__(self, name, path):
    self.name, self.path = name, path

  def process(self, pair, collected=beam.DoFn.StateParam(ALL), end=beam.DoFn.TimerParam(END)):
    collected.add(pair[1])
    end.set(AFTER_ALL)

  @userstate.on_timer(END)
  def at_the_end(self, key=beam.DoFn.KeyParam, collected=beam.DoFn.StateParam(ALL)):
    write(self.path, '%s\t%s\t%s' % (self.name, key, json.dumps(sorted(collected.read()))))
    return ()


class Sum(beam.CombineFn):
  """A sum whose accumulator is a number too."""
  def create_accumulator(self):
    return 0

  def add_input(self, accumulator, number):
    return accumulator + number

  def merge_accumulators(self, accumulators):
    return sum(accumulators)

  def extract_output(self, accumulator):
    return accumulator


class Remember(beam.DoFn):
  """All kinds of state that Python has, and both kinds of timers.

  At its key's event timer, again and again, it emits the time; what the processing-time timer finds in the bag of what
  is not out yet, it emits. At the end comes what the other cells hold.
  """
  SEEN = userstate.ReadModifyWriteStateSpec('seen', VarIntCoder())
  SUM = userstate.CombiningValueStateSpec('sum', VarIntCoder(), Sum())
  STEPS = userstate.SetStateSpec('steps', VarIntCoder())
  LIST = userstate.OrderedListStateSpec('list', VarIntCoder())
  PENDING = userstate.BagStateSpec('pending', StrUtf8Coder())
  TICK = userstate.TimerSpec('tick', TimeDomain.WATERMARK)
  FLUSH = userstate.TimerSpec('flush', TimeDomain.REAL_TIME)
  END = userstate.TimerSpec('end', TimeDomain.WATERMARK)

  def __init__(self, last, flush):
    self.last, self.flush = last, flush

  def process(
      self, pair, seen=beam.DoFn.StateParam(SEEN), total=beam.DoFn.StateParam(SUM), steps=beam.DoFn.StateParam(STEPS),
      ordered=beam.DoFn.StateParam(LIST), pending=beam.DoFn.StateParam(PENDING), tick=beam.DoFn.TimerParam(TICK),
      flush=beam.DoFn.TimerParam(FLUSH), end=beam.DoFn.TimerParam(END)):
    Metrics.counter('pieces', 'remembered').inc()
    number = int(pair[1].rpartition('-')[2])
    before = seen.read() or 0
    if not before:
      tick.set(Timestamp(WIDTH))
      end.set(AFTER_ALL)
    seen.write(before + 1)
    total.add(number)
    steps.add(number // STEP)
    ordered.add((Timestamp(number), number))
    pending.add(pair[1])
    flush.set(Timestamp.now() + Duration(self.flush))

  @userstate.on_timer(TICK)
  def on_tick(self, key=beam.DoFn.KeyParam, at=beam.DoFn.TimestampParam, tick=beam.DoFn.TimerParam(TICK)):
    yield key, 'tick %d' % at.seconds()
    if at.seconds() + WIDTH <= self.last:
      tick.set(at + Duration(WIDTH))

  @userstate.on_timer(FLUSH)
  def on_flush(self, key=beam.DoFn.KeyParam, pending=beam.DoFn.StateParam(PENDING)):
    Metrics.counter('pieces', 'flushed').inc()
    for value in pending.read():
      yield key, value
    pending.clear()

  @userstate.on_timer(END)
  def at_the_end(
      self, key=beam.DoFn.KeyParam, seen=beam.DoFn.StateParam(SEEN), total=beam.DoFn.StateParam(SUM),
      steps=beam.DoFn.StateParam(STEPS), ordered=beam.DoFn.StateParam(LIST), pending=beam.DoFn.StateParam(PENDING)):
    for value in pending.read():
      yield key, value
    pending.clear()
    listed = [value for _, value in ordered.read()]
    yield key, 'end %s' % json.dumps([seen.read(), total.read(), sorted(steps.read()), listed])


class Piece:
  """A transform of (part, number), and what is to be collected of it: by key, the values."""
  name = ''

  def expand(self, numbers, context):
    """Pairs of key and text."""
    raise NotImplementedError

  def expected(self, pairs):
    """By key, what is to be there, exactly."""
    raise NotImplementedError

  def differences(self, pairs, collected):
    """What is lost, and what is there too often or wrongly, as lines."""
    expected = collections.defaultdict(collections.Counter)
    for key, value in self.expected(pairs):
      expected[key][value] += 1
    lost, repeated = [], []
    for key in sorted(expected.keys() | collected.keys()):
      found = collections.Counter(collected.get(key, ()))
      lost += ['%s %s %s' % (self.name, key, value) for value in (expected[key] - found).elements()]
      repeated += ['%s %s %s' % (self.name, key, value) for value in (found - expected[key]).elements()]
    return lost, repeated


class State(Piece):
  """State and timers."""
  name = 'state'

  def expand(self, numbers, context):
    last = context.count // RATE
    return numbers | beam.Map(keyed) | beam.ParDo(Remember(last, context.flush)).with_output_types(tuple[str, str])

  def expected(self, pairs):
    pairs = sorted(pairs)
    count = max(number for _, number in pairs) + 1
    for key in sorted({key_of(number) for _, number in pairs}):
      mine = [pair for pair in pairs if key_of(pair[1]) == key]
      numbers = [number for _, number in mine]
      for name in named(mine):
        yield key, name
      for at in range(WIDTH, count // RATE + 1, WIDTH):
        yield key, 'tick %d' % at
      steps = sorted({number // STEP for number in numbers})
      yield key, 'end %s' % json.dumps([len(numbers), sum(numbers), steps, sorted(numbers)])


class Windows(Piece):
  """Fixed windows, one pane each."""
  name = 'windows'

  def expand(self, numbers, context):
    def pane(group, where=beam.DoFn.WindowParam):
      return group[0], '%d %s' % (where.start.seconds(), ' '.join(sorted(group[1])))

    return (
        numbers | beam.Map(keyed) | beam.WindowInto(window.FixedWindows(WIDTH)) | beam.GroupByKey() | beam.Map(pane)
        | 'globally' >> beam.WindowInto(window.GlobalWindows()))

  def expected(self, pairs):
    groups = collections.defaultdict(list)
    for part, number in pairs:
      groups[key_of(number), number // RATE // WIDTH * WIDTH].append('%s-%d' % (part, number))
    for (key, start), values in groups.items():
      yield key, '%d %s' % (start, ' '.join(sorted(values)))


class Sliding(Windows):
  """Sliding windows, and a combine."""
  name = 'sliding'

  def expand(self, numbers, context):
    def told(pair, where=beam.DoFn.WindowParam):
      return pair[0], '%d %d' % (where.start.seconds(), pair[1])

    return (
        numbers | beam.MapTuple(lambda part, number: (key_of(number), number))
        | beam.WindowInto(window.SlidingWindows(2 * WIDTH, WIDTH)) | beam.CombinePerKey(sum) | beam.Map(told)
        | 'globally' >> beam.WindowInto(window.GlobalWindows()))

  def expected(self, pairs):
    sums = collections.Counter()
    for _, number in pairs:
      start = number // RATE // WIDTH * WIDTH
      sums[key_of(number), start] += number
      sums[key_of(number), start - WIDTH] += number
    for (key, start), total in sums.items():
      yield key, '%d %d' % (start, total)


class Sessions(Piece):
  """Every other burst of numbers makes a session."""
  name = 'sessions'

  def expand(self, numbers, context):
    def session(group, where=beam.DoFn.WindowParam):
      return group[0], '%d %d %d' % (where.start.micros // 1000, where.end.micros // 1000, len(list(group[1])))

    return (
        numbers | beam.Filter(lambda pair: pair[1] // BURST % 2 == 0) | beam.Map(lambda pair: (pair[0], pair[1]))
        | beam.WindowInto(window.Sessions(GAP)) | beam.GroupByKey() | beam.Map(session)
        | 'globally' >> beam.WindowInto(window.GlobalWindows()))

  def expected(self, pairs):
    bursts = collections.defaultdict(list)
    for part, number in pairs:
      if number // BURST % 2 == 0:
        bursts[part, number // BURST].append(number)
    for (part, _), numbers in bursts.items():
      start, end = min(numbers) * 1000 // RATE, max(numbers) * 1000 // RATE + round(GAP * 1000)
      yield part, '%d %d %d' % (start, end, len(numbers))


def late(pair):
  """When a number happened: some much earlier than it comes."""
  early = LATE_BY if pair[1] % LATE_EVERY == 0 and pair[1] >= LATE_BY * RATE else 0
  return moment(pair[1] - early * RATE)


class Panes(Piece):
  """Early, on-time and late panes: which there are is not known before, but how they follow each other, and what all of
  a window hold together."""
  name = 'panes'
  mode = trigger.AccumulationMode.DISCARDING

  def expand(self, numbers, context):
    fire = trigger.AfterWatermark(early=trigger.AfterCount(9), late=trigger.AfterCount(1))

    def told(group, where=beam.DoFn.WindowParam, pane=beam.DoFn.PaneInfoParam):
      timing = PaneInfoTiming.to_string(pane.timing)
      return group[0], json.dumps([where.start.seconds(), pane.index, timing, pane.is_first, sorted(group[1])])

    return (
        numbers | 'happened' >> beam.Map(lambda pair: TimestampedValue(pair, late(pair))) | beam.Map(keyed)
        | beam.WindowInto(window.FixedWindows(WIDTH), trigger=fire, accumulation_mode=self.mode, allowed_lateness=10**6)
        | beam.GroupByKey() | beam.Map(told) | 'globally' >> beam.WindowInto(window.GlobalWindows()))

  def differences(self, pairs, collected):
    expected = collections.defaultdict(collections.Counter)
    for part, number in pairs:
      start = late((part, number)).seconds() // WIDTH * WIDTH
      expected[key_of(number), start]['%s-%d' % (part, number)] += 1
    panes = collections.defaultdict(list)
    for key, values in collected.items():
      for value in values:
        start, *pane = json.loads(value)
        panes[key, start].append(pane)
    lost, repeated = [], []
    for of in sorted(expected.keys() | panes.keys()):
      found, wrong = self.together(sorted(panes[of], key=lambda pane: pane[0]))
      lost += ['%s %s %s' % (self.name, of, value) for value in (expected[of] - found).elements()]
      repeated += ['%s %s %s' % (self.name, of, value) for value in (found - expected[of]).elements()]
      repeated += ['%s %s %s' % (self.name, of, what) for what in wrong]
    return lost, repeated

  def together(self, panes):
    """What the panes of a window hold, and what is wrong about how they follow each other."""
    wrong = []
    indexes = [index for index, _, _, _ in panes]
    if indexes != list(range(len(panes))):
      wrong.append('panes %s' % indexes)
    timings = ''.join(timing[0] for _, timing, _, _ in panes)
    if timings != 'E' * timings.count('E') + 'O' + 'L' * timings.count('L'):
      wrong.append('timings %s' % timings)
    if [first for _, _, first, _ in panes] != [True] + [False] * (len(panes) - 1):
      wrong.append('first panes')
    found = collections.Counter()
    for _, _, _, values in panes:
      values = collections.Counter(values)
      if self.mode == trigger.AccumulationMode.DISCARDING:
        found += values
      else:
        if found - values:
          wrong.append('a pane without what was in the one before: %s' % list(found - values)[:3])
        found = values
    return found, wrong


class Accumulating(Panes):
  """The same, where each pane has all of its window so far."""
  name = 'accumulating'
  mode = trigger.AccumulationMode.ACCUMULATING


class Side(Piece):
  """Each number beside the sum of its window on a slower source, for which it waits, or which came long ago."""
  name = 'side'

  def expand(self, numbers, context):
    side = (
        context.source('side', ['side'], batch=max(1, context.batch // 2), pause=2 * context.pause)
        | 'side windows' >> beam.WindowInto(
            window.FixedWindows(WIDTH), accumulation_mode=trigger.AccumulationMode.ACCUMULATING, allowed_lateness=10**6)
        | beam.MapTuple(lambda _, number: number)
        | beam.CombineGlobally(sum).without_defaults())
    return (
        numbers | 'happened' >> beam.Map(lambda pair: TimestampedValue(pair, late(pair)))
        | beam.WindowInto(window.FixedWindows(WIDTH), allowed_lateness=10**6)
        | 'beside' >> beam.Map(
            lambda pair, sums: (key_of(pair[1]), '%s-%d %s' % (*pair, list(sums))), pvalue.AsIter(side))
        | 'globally' >> beam.WindowInto(window.GlobalWindows()))

  def expected(self, pairs):
    sums = collections.Counter()
    for number in {number for _, number in pairs}:
      sums[number // RATE // WIDTH] += number
    for part, number in pairs:
      yield key_of(number), '%s-%d [%d]' % (part, number, sums[late((part, number)).seconds() // WIDTH])


class Latest(Piece):
  """Each number, once, beside the latest of a side input in a global window that changes all the time."""
  name = 'latest'

  def expand(self, numbers, context):
    side = (
        context.source('latest', ['latest'], batch=context.batch, pause=context.pause)
        | 'side windows' >> beam.WindowInto(
            window.GlobalWindows(), trigger=trigger.Repeatedly(trigger.AfterCount(1)),
            accumulation_mode=trigger.AccumulationMode.DISCARDING) | beam.MapTuple(lambda _, number: number)
        | 'greatest' >> beam.CombineGlobally(lambda values: max(values, default=-1)).without_defaults())
    return numbers | 'beside' >> beam.Map(
        lambda pair, latest: (key_of(pair[1]), '%s-%d %s' % (*pair, list(latest))), pvalue.AsIter(side))

  def differences(self, pairs, collected):
    # Which was the latest is not known, only that there was one.
    count = max(number for _, number in pairs) + 1
    simple, odd = {}, []
    for key, values in collected.items():
      simple[key] = [value.split(' ')[0] for value in values]
      odd += [value for value in values if not all(-1 <= n < count for n in json.loads(value.split(' ', 1)[1]))]
    lost, repeated = super().differences(pairs, simple)
    return lost, repeated + ['%s %s' % (self.name, value) for value in odd]

  def expected(self, pairs):
    for part, number in pairs:
      yield key_of(number), '%s-%d' % (part, number)


class Stateless(Latest):
  """A shuffle and no state of its own."""
  name = 'stateless'

  def expand(self, numbers, context):
    return numbers | beam.Reshuffle() | beam.Map(keyed)

  def differences(self, pairs, collected):
    return Piece.differences(self, pairs, collected)


class Copies(beam.RestrictionProvider):
  """The copies of a number."""
  def initial_restriction(self, element):
    return OffsetRange(0, COPIES)

  def create_tracker(self, restriction):
    return OffsetRestrictionTracker(restriction)

  def restriction_size(self, element, restriction):
    return restriction.size()


class Copy(beam.DoFn):
  """Emits the copies of a number one by one, and defers the others; while sources wait, the first alone.

  Who counts the calls sees that it waits, too: sources may have come to their end.
  """
  def __init__(self, calls, held, pause):
    self.calls, self.held, self.pause = calls, held, pause

  @beam.DoFn.unbounded_per_element()
  def process(
      self, pair, tracker=beam.DoFn.RestrictionParam(Copies()),
      estimator=beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider())):
    copy = tracker.current_restriction().start
    estimator.set_watermark(moment(pair[1]))
    waits = copy and os.path.exists(self.held)
    if waits:
      write(self.calls, '%s %d' % (COPYING, pair[1]))
    elif tracker.try_claim(copy):
      yield key_of(pair[1]), '%s-%d/%d' % (*pair, copy)
    tracker.defer_remainder(Duration(self.pause))


class Copying(Piece):
  """A DoFn that defers what is left, and is no source."""
  name = 'copying'

  def expand(self, numbers, context):
    copied = numbers | beam.Filter(lambda pair: pair[1] % COPIED_EVERY == 0) | beam.Map(lambda pair: (pair[0], pair[1]))
    return copied | 'copies' >> beam.ParDo(Copy(context.calls, context.held, 5 * context.pause))

  def expected(self, pairs):
    for part, number in pairs:
      if number % COPIED_EVERY == 0:
        for copy in range(COPIES):
          yield key_of(number), '%s-%d/%d' % (part, number, copy)


ALL = [State(), Windows(), Sliding(), Sessions(), Panes(), Accumulating(), Side(), Latest(), Stateless(), Copying()]


class Context:
  """A pipeline of pieces: its sources, of so many numbers each, and where all that is written goes.

  Its sources wait at a number, at first halfway, until they are released.
  """

  def __init__(self, folder, pieces, parts=2, count=2000, batch=50, pause=0.02, source_fn=Source, flush=0.05):
    self.pieces, self.count, self.batch, self.pause, self.source_fn = pieces, count, batch, pause, source_fn
    self.flush = flush
    self.parts = ['p%d' % part for part in range(parts)]
    self.calls, self.written = os.path.join(folder, 'calls'), os.path.join(folder, 'written')
    self.held = os.path.join(folder, 'held')
    self.hold(1, 2)
    self.pipeline = None

  def source(self, name, parts, batch, pause):
    return (
        self.pipeline | '%s parts' % name >> beam.Create([(part, self.count) for part in parts])
        | '%s spread' % name >> beam.Reshuffle()
        | '%s numbers' % name >> beam.ParDo(self.source_fn(self.calls, self.held, batch, pause)))

  def build(self, pipeline):
    self.pipeline = pipeline
    numbers = self.source('main', self.parts, self.batch, self.pause)
    for piece in self.pieces:
      (  # pylint: disable=expression-not-assigned
          numbers | piece.name >> beam.ptransform_fn(lambda them, piece=piece: piece.expand(them, self))()
          | '%s as text' % piece.name >> beam.Map(lambda pair: pair).with_output_types(tuple[str, str])
          | '%s collected' % piece.name >> beam.ParDo(Collect(piece.name, self.written)))

  def hold(self, part, of):
    """Sources are to wait at that part of their numbers."""
    write(self.held + '.new', self.count * part // of)
    os.rename(self.held + '.new', self.held)

  def release(self):
    """Sources may go on."""
    if os.path.exists(self.held):
      os.remove(self.held)

  def progress(self):
    """How often sources have been called so far."""
    return len(read(self.calls))

  def results(self):
    """How many values were collected, and lines of what is lost, and of what is there too often or wrongly."""
    pairs = [(part, number) for part in self.parts for number in range(self.count)]
    collected = collections.defaultdict(dict)
    compared, lost, repeated = 0, [], []
    for line in read(self.written):
      name, key, values = line.split('\t')
      values = json.loads(values)
      # The last thing that happens may happen twice, but not in two ways.
      if collected[name].setdefault(key, values) != values:
        repeated.append('%s %s was collected in two ways' % (name, key))
    for piece in self.pieces:
      compared += sum(map(len, collected[piece.name].values()))
      of_piece = piece.differences(pairs, collected[piece.name])
      lost += of_piece[0]
      repeated += of_piece[1]
    return compared, lost, repeated
