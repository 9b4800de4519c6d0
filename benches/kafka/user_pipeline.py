"""A pipeline of a user of Flink, who knows nothing of Ferrobeam: counts the events of each key in sliding windows.

    user_pipeline.py BOOTSTRAP SOURCE SINK [OPTION]...
"""
import sys

import apache_beam as beam
from apache_beam.io.kafka import ReadFromKafka, WriteToKafka
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import SlidingWindows


class Format(beam.DoFn):
  """A window's count, as a record."""

  def process(self, counted, window=beam.DoFn.WindowParam):
    key, count = counted
    yield key, b'%d %d' % (window.start.micros // 1_000_000, count)


def main(bootstrap, source, sink, *options):
  with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
    (  # pylint: disable=expression-not-assigned
        pipeline
        | ReadFromKafka({'bootstrap.servers': bootstrap, 'auto.offset.reset': 'earliest', 'group.id': 'counts'}, [source],
                        timestamp_policy=ReadFromKafka.create_time_policy, commit_offset_in_finalize=True)
        | beam.WindowInto(SlidingWindows(10, 5))
        | beam.combiners.Count.PerKey()
        | beam.ParDo(Format()).with_output_types(tuple[bytes, bytes])
        | WriteToKafka({'bootstrap.servers': bootstrap}, sink))


if __name__ == '__main__':
  main(*sys.argv[1:])
