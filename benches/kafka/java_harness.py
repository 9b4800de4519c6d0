"""Starts the Java SDK's harness, as the container of the SDK does: asks the runner where its services are.

    java_harness.py CLASS_PATH LOG --id=ID --provision_endpoint=HOST:PORT
"""
import argparse
import os

import grpc
from apache_beam.portability.api import beam_provision_api_pb2, beam_provision_api_pb2_grpc
from google.protobuf import json_format


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument('class_path')
  parser.add_argument('log')
  parser.add_argument('--id', required=True)
  parser.add_argument('--provision_endpoint', required=True)
  said, _ = parser.parse_known_args()
  channel = grpc.insecure_channel(said.provision_endpoint)
  provision = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel)
  request = beam_provision_api_pb2.GetProvisionInfoRequest()
  info = provision.GetProvisionInfo(request, metadata=[('worker_id', said.id)], wait_for_ready=True).info
  environment = {
      'HARNESS_ID': said.id,
      'CONTROL_API_SERVICE_DESCRIPTOR': 'url: "%s"' % info.control_endpoint.url,
      'LOGGING_API_SERVICE_DESCRIPTOR': 'url: "%s"' % info.logging_endpoint.url,
      'PIPELINE_OPTIONS': json_format.MessageToJson(info.pipeline_options),
  }
  log = os.open(said.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
  os.dup2(log, 1)
  os.dup2(log, 2)
  command = ['java', '-Xmx1g', '-cp', said.class_path, 'org.apache.beam.fn.harness.FnHarness']
  os.execvpe('java', command, {**os.environ, **environment})


if __name__ == '__main__':
  main()
