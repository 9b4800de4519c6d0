"""Stands before a job endpoint and adds pipeline options to every job that is submitted, whatever the SDK.

    relay.py ENDPOINT PORT NAME=VALUE...

All other calls pass as they are. Prints a line when it is ready, and ends when its standard input does.
"""
import sys
from concurrent import futures

import grpc
from apache_beam.portability.api import beam_job_api_pb2

SERVICE = '/org.apache.beam.model.job_management.v1.JobService/'
STREAMS = ('GetStateStream', 'GetMessageStream')


class Relay(grpc.GenericRpcHandler):
  """Passes calls on, as bytes."""

  def __init__(self, channel, options):
    self.channel, self.options = channel, options

  def service(self, details):
    if not details.method.startswith(SERVICE):
      return None
    if details.method[len(SERVICE):] in STREAMS:
      return grpc.unary_stream_rpc_method_handler(self.stream(self.channel.unary_stream(details.method)))
    change = self.add_options if details.method == SERVICE + 'Prepare' else lambda request: request
    return grpc.unary_unary_rpc_method_handler(self.call(self.channel.unary_unary(details.method), change))

  def add_options(self, request):
    prepare = beam_job_api_pb2.PrepareJobRequest.FromString(request)
    for name, value in self.options:
      prepare.pipeline_options['beam:option:%s:v1' % name] = value
    return prepare.SerializeToString()

  def call(self, call, change):
    def handle(request, context):
      try:
        return call(change(request))
      except grpc.RpcError as error:
        context.abort(error.code(), error.details())

    return handle

  def stream(self, call):
    def handle(request, context):
      answers = call(request)
      context.add_callback(answers.cancel)
      try:
        yield from answers
      except grpc.RpcError as error:
        context.abort(error.code(), error.details())

    return handle


def main(endpoint, port, options):
  unlimited = [('grpc.max_receive_message_length', -1), ('grpc.max_send_message_length', -1)]
  with grpc.insecure_channel(endpoint, unlimited) as channel:
    # A stream takes a thread for as long as its job runs.
    server = grpc.server(futures.ThreadPoolExecutor(256), [Relay(channel, options)], options=unlimited)
    server.add_insecure_port('localhost:%d' % port)
    server.start()
    print('listening', flush=True)
    sys.stdin.read()
    server.stop(1)


if __name__ == '__main__':
  main(sys.argv[1], int(sys.argv[2]), [option.split('=', 1) for option in sys.argv[3:]])
