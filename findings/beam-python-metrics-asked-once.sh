#!/usr/bin/env bash
# apache-beam 2.77.0 (Python), PortableRunner and all runners made of it (Flink, Spark).
# Guess: `result.metrics()` asks the job each time, so a loop that polls a counter of a running streaming job sees it grow.
# Really: the first answer is kept in the result for ever; later calls send nothing, also when the job has ended since.
# Hurt: whoever polls metrics for progress, or looks once while the job runs and reads the final counts at its end: the
#   early numbers are reported as the last ones.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet apache-beam==2.77.0
cat > finding.py <<'PYTHON'
from concurrent import futures
import grpc
from apache_beam.portability.api import beam_job_api_pb2 as job, beam_job_api_pb2_grpc as job_grpc
from apache_beam.portability.api import metrics_pb2
from apache_beam.runners.portability.portable_runner import PipelineResult


class RisingJob(job_grpc.JobServiceServicer):
    """A job whose counter `seen` has grown by 10 each time that its metrics are asked for."""
    asked = 0

    def GetJobMetrics(self, request, context):
        self.asked += 1
        info = metrics_pb2.MonitoringInfo(
            urn="beam:metric:user:sum_int64:v1", type="beam:metrics:sum_int64:v1", payload=bytes([10 * self.asked]),
            labels={"NAMESPACE": "n", "NAME": "seen", "PTRANSFORM": "t"})
        return job.GetJobMetricsResponse(metrics=job.MetricResults(attempted=[info], committed=[info]))


def result():
    return PipelineResult(job_grpc.JobServiceStub(channel), "job", iter(()), iter(()))


def seen(of):
    return of.metrics().query()["counters"][0].attempted


servicer, server = RisingJob(), grpc.server(futures.ThreadPoolExecutor())
job_grpc.add_JobServiceServicer_to_server(servicer, server)
channel = grpc.insecure_channel("127.0.0.1:%d" % server.add_insecure_port("127.0.0.1:0"))
server.start()
one = result()
same = [seen(one) for _ in range(4)]
print("four polls of one result:", same, "- the job was asked", servicer.asked, "time(s)")
fresh = [seen(result()) for _ in range(3)]
print("a fresh result each time:", fresh)
server.stop(None)
raise SystemExit(same != [10] * 4 or fresh != [20, 30, 40])
PYTHON
venv/bin/python finding.py
# Seen:
#   four polls of one result: [10, 10, 10, 10] - the job was asked 1 time(s)
#   a fresh result each time: [20, 30, 40]
