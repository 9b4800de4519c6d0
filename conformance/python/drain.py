"""Runs a command and drains the jobs it submits, as whoever operates a runner does; ends with the command's exit code.

    drain.py ENDPOINT PREFIX COMMAND...

Its jobs are those whose name starts with PREFIX and that were not there before.
"""
import subprocess
import sys
import time

import grpc
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc as api_grpc

# Long enough for what a source emits before it is drained.
RUNS_FOR = 2


def jobs(stub, prefix):
  return [job for job in stub.GetJobs(api.GetJobsRequest()).job_info if job.job_name.startswith(prefix)]


def main(endpoint, prefix, command):
  with grpc.insecure_channel(endpoint) as channel:
    stub = api_grpc.JobServiceStub(channel)
    done = {job.job_id for job in jobs(stub, prefix)}
    running = subprocess.Popen(command)
    try:
      while running.poll() is None:
        for job in jobs(stub, prefix):
          if job.state == api.JobState.RUNNING and job.job_id not in done:
            done.add(job.job_id)
            time.sleep(RUNS_FOR)
            stub.Drain(api.DrainJobRequest(job_id=job.job_id))
        time.sleep(0.1)
    finally:
      running.kill()
    return running.wait()


if __name__ == '__main__':
  sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
