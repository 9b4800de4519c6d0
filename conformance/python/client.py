"""One client: submits small jobs one after the other and prints the end of each on a line, `DONE` or what went wrong.

    client.py ENDPOINT JOBS
"""
import os
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to


def job(endpoint, number):
  options = PipelineOptions([
      '--runner=PortableRunner', '--job_endpoint=%s' % endpoint, '--environment_type=LOOPBACK',
      '--job_name=client-%d-%d' % (os.getpid(), number)
  ])
  pipeline = beam.Pipeline(options=options)
  counted = (
      pipeline | beam.Create(range(100)) | beam.Map(lambda i: (i % 3, i)) | beam.GroupByKey()
      | beam.MapTuple(lambda k, values: (k, sum(values))))
  assert_that(counted, equal_to([(0, 1683), (1, 1617), (2, 1650)]))
  result = pipeline.run()
  result.wait_until_finish()
  return result.state


def main(endpoint, jobs):
  for number in range(jobs):
    try:
      print(job(endpoint, number), flush=True)
    except Exception as error:  # pylint: disable=broad-except
      print(('%s: %s' % (type(error).__name__, error)).replace('\n', ' ')[:300], flush=True)


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]))
  os._exit(0)  # the loopback worker's threads would keep the process
