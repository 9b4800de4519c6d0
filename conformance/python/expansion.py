"""Serves the Python SDK's test transforms for expansion, run by a worker pool in this same process.

    expansion.py PORT FOLDER

The transforms are those of `expansion_service_test` in the SDK's package, which itself names a container to run them in.
What they import besides the SDK is looked for in FOLDER too. Prints a line when it is ready, and ends when its standard input does.
"""
import sys

import grpc
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_artifact_api_pb2_grpc, beam_expansion_api_pb2_grpc
from apache_beam.runners.portability import artifact_service, expansion_service
from apache_beam.runners.portability import expansion_service_test  # Registers the transforms. pylint: disable=unused-import
from apache_beam.runners.worker import worker_pool_main
from apache_beam.transforms import fully_qualified_named_transform
from apache_beam.utils import thread_pool_executor


def main(port):
  pool, _ = worker_pool_main.BeamFnExternalWorkerPoolServicer.start()
  options = PipelineOptions([
      '--environment_type=EXTERNAL', '--environment_config=%s' % pool, '--pickle_library=cloudpickle',
      '--experiments=beam_fn_api'
  ])
  with fully_qualified_named_transform.FullyQualifiedNamedTransform.with_filter('*'):
    server = grpc.server(thread_pool_executor.shared_unbounded_instance())
    beam_expansion_api_pb2_grpc.add_ExpansionServiceServicer_to_server(
        expansion_service.ExpansionServiceServicer(options), server)
    beam_artifact_api_pb2_grpc.add_ArtifactRetrievalServiceServicer_to_server(
        artifact_service.ArtifactRetrievalService(artifact_service.BeamFilesystemHandler(None).file_reader), server)
    server.add_insecure_port('localhost:%d' % port)
    server.start()
    print('listening', flush=True)
    sys.stdin.read()
    server.stop(1)


if __name__ == '__main__':
  sys.path.append(sys.argv[2])
  main(int(sys.argv[1]))
