"""Whether each record of a key was taken once."""
import apache_beam as beam
from apache_beam.coders import VarIntCoder
from apache_beam.transforms import userstate


class Number(beam.DoFn):
  """Numbers the records of a key in the order in which they come, and says the number behind the value."""
  COUNT = userstate.ReadModifyWriteStateSpec('count', VarIntCoder())

  def process(self, pair, count=beam.DoFn.StateParam(COUNT)):
    number = count.read() or 0
    count.write(number + 1)
    yield pair[0], b'%s %d' % (pair[1], number)
