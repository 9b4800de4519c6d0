"""Runs Beam's worker pool, with threads or processes, and prints where it listens. Ends with its standard input."""

import sys

from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

address, server = BeamFnExternalWorkerPoolServicer.start(use_process=sys.argv[1] == 'processes')
print(address, flush=True)
sys.stdin.read()
server.stop(0)
