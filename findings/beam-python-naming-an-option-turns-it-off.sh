#!/usr/bin/env bash
# apache-beam 2.77.0 (Python), a job service that describes an option as Flink's does: boolean, true unless set.
# Guess: --fail_on_checkpointing_errors turns it on, or leaves it on, and --fail_on_checkpointing_errors=false turns it off, as with
#   Java, and as everywhere.
# Really: naming an option of the job service whose default is true turns it off; with a value it is an error of the command line,
#   which ends the program. Nothing turns it on.
# Hurt: who writes out what is to hold anyway: with Flink's and other job servers a job then goes on over checkpoints that fail.
set -euo pipefail
dir=$(mktemp -d); cd "$dir"
trap 'rm -rf "$dir"' EXIT
python3 -m venv venv
venv/bin/pip install --quiet apache-beam==2.77.0
cat > finding.py <<'PYTHON'
import concurrent.futures
import logging
import os
import grpc
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_job_api_pb2 as api
from apache_beam.portability.api import beam_job_api_pb2_grpc

NAME = "fail_on_checkpointing_errors"
logging.disable()
seen = []


class Jobs(beam_job_api_pb2_grpc.JobServiceServicer):
    def DescribePipelineOptions(self, request, context):
        boolean = api.PipelineOptionType.BOOLEAN
        described = api.PipelineOptionDescriptor(name=NAME, type=boolean, default_value="true", description="", group="")
        return api.DescribePipelineOptionsResponse(options=[described])

    def Prepare(self, request, context):
        options = request.pipeline_options.fields
        seen.append(options["beam:option:%s:v1" % NAME].bool_value if "beam:option:%s:v1" % NAME in options else None)
        context.abort(grpc.StatusCode.CANCELLED, "enough is known")


server = grpc.server(concurrent.futures.ThreadPoolExecutor())
port = server.add_insecure_port("localhost:0")
beam_job_api_pb2_grpc.add_JobServiceServicer_to_server(Jobs(), server)
server.start()


def ends(*flags):
    pipeline = beam.Pipeline(options=PipelineOptions([
        "--runner=PortableRunner", "--job_endpoint=localhost:%d" % port, "--environment_type=LOOPBACK", *flags]))
    _ = pipeline | beam.Create([1])
    try:
        pipeline.run()
    except grpc.RpcError:
        return "the service is told %s" % seen[-1]
    except SystemExit as left:
        return "the program ends with code %s" % left.code


found = [ends(), ends("--" + NAME), ends("--%s=false" % NAME)]
for flags, what in zip(["nothing", "--" + NAME, "--%s=false" % NAME], found):
    print("with", flags + ":", what, flush=True)
server.stop(0)
code = found != ["the service is told True", "the service is told False", "the program ends with code 2"]
os._exit(code)
PYTHON
venv/bin/python finding.py 2> /dev/null
# Seen:
#   with nothing: the service is told True
#   with --fail_on_checkpointing_errors: the service is told False
#   with --fail_on_checkpointing_errors=false: the program ends with code 2
