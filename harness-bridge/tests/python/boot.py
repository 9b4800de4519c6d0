"""Starts a Python SDK harness as a container's boot program does: asks for provisioning, fetches artifacts, runs."""

import argparse
import os
import sys

import grpc

from apache_beam.portability.api import beam_artifact_api_pb2
from apache_beam.portability.api import beam_artifact_api_pb2_grpc
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.portability.api import beam_provision_api_pb2_grpc
from google.protobuf import json_format
from google.protobuf import text_format

parser = argparse.ArgumentParser()
parser.add_argument('--id', required=True)
parser.add_argument('--provision_endpoint', required=True)
args, _ = parser.parse_known_args()

metadata = [('worker_id', args.id)]
with grpc.insecure_channel(args.provision_endpoint) as channel:
  info = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel).GetProvisionInfo(
      beam_provision_api_pb2.GetProvisionInfoRequest(), metadata=metadata).info
with grpc.insecure_channel(info.artifact_endpoint.url) as channel:
  stub = beam_artifact_api_pb2_grpc.ArtifactRetrievalServiceStub(channel)
  resolved = stub.ResolveArtifacts(
      beam_artifact_api_pb2.ResolveArtifactsRequest(artifacts=info.dependencies), metadata=metadata)
  for artifact in resolved.replacements:
    request = beam_artifact_api_pb2.GetArtifactRequest(artifact=artifact)
    data = b''.join(piece.data for piece in stub.GetArtifact(request, metadata=metadata))
    print('artifact of', len(data), 'bytes', data[:5].decode(), flush=True)

os.environ['WORKER_ID'] = args.id
os.environ['PIPELINE_OPTIONS'] = json_format.MessageToJson(info.pipeline_options)
os.environ['RUNNER_CAPABILITIES'] = ' '.join(info.runner_capabilities)
for service in ('control', 'logging', 'status'):
  endpoint = getattr(info, service + '_endpoint')
  os.environ[service.upper() + '_API_SERVICE_DESCRIPTOR'] = text_format.MessageToString(endpoint)
os.execv(sys.executable, [sys.executable, '-m', 'apache_beam.runners.worker.sdk_worker_main'])
