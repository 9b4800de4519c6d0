#!/usr/bin/env bash
# apache-beam 2.77.0 (Python), PortableRunner and all runners made of it.
# Guess: `wait_until_finish(duration)` answers the state when the time is over and can be called again, as a supervisor
#   does that waits in slices.
# Really: the first call leaves its reader on the one state stream of the job. The second call reads the same stream from
#   another thread, which gRPC refuses, and the refusal is raised as if the pipeline had failed, while the job runs on.
# Hurt: every loop of `wait_until_finish(5000)`: it dies on its second turn. Poll `result.state` instead.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet apache-beam==2.77.0
cat > finding.py <<'PYTHON'
from concurrent import futures
import os
import threading
import grpc
from apache_beam.portability.api import beam_job_api_pb2 as job, beam_job_api_pb2_grpc as job_grpc
from apache_beam.runners.portability.portable_runner import PipelineResult

over = threading.Event()


class RunningJob(job_grpc.JobServiceServicer):
    """A job that says RUNNING and then goes on until the test is over."""
    def GetState(self, request, context):
        return job.JobStateEvent(state=job.JobState.RUNNING)

    def GetStateStream(self, request, context):
        yield job.JobStateEvent(state=job.JobState.RUNNING)
        over.wait()

    def GetMessageStream(self, request, context):
        yield job.JobMessagesResponse(state_response=job.JobStateEvent(state=job.JobState.RUNNING))
        over.wait()


server = grpc.server(futures.ThreadPoolExecutor())
job_grpc.add_JobServiceServicer_to_server(RunningJob(), server)
channel = grpc.insecure_channel("127.0.0.1:%d" % server.add_insecure_port("127.0.0.1:0"))
server.start()
stub = job_grpc.JobServiceStub(channel)
result = PipelineResult(
    stub, "job", stub.GetMessageStream(job.JobMessagesRequest(job_id="job")),
    stub.GetStateStream(job.GetJobStateRequest(job_id="job")))
first = result.wait_until_finish(1000)
print("first wait:", first)
try:
    second = result.wait_until_finish(1000)
except Exception as error:
    second = type(error).__name__
    print("second wait raised", second, "-", error)
print("the job's state:", result.state, flush=True)
over.set()
os._exit((first, second, result.state) != ("RUNNING", "ValueError", "RUNNING"))
PYTHON
venv/bin/python finding.py
# Seen:
#   first wait: RUNNING
#   second wait raised ValueError - Internal gRPC call error 8. Please report to https://github.com/grpc/grpc/issues
#   the job's state: RUNNING
