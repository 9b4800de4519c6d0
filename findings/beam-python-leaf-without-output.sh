#!/usr/bin/env bash
# apache-beam 2.77.0 (Python), PortableRunner and all runners made of it.
# Guess: every transform of a pipeline is submitted; the client's pre-optimisation of bounded pipelines only packs and lifts
#   combiners.
# Really: it keeps what leads to an output, so a leaf that has none (an external or runner-native write with a URN of its own)
#   is taken out of a bounded pipeline without a word. With --streaming it is submitted.
# Hurt: an expansion service or runner that answers a write as one leaf: the job ends DONE and nothing was written. Such a
#   leaf must declare an output that nobody reads.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT; cd "$dir"
python3 -m venv venv
venv/bin/pip install --quiet apache-beam==2.77.0
cat > finding.py <<'PYTHON'
import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.portable_runner import PortableRunner

URN = "example:native_write:v1"


class NativeWrite(beam.PTransform):
    """One leaf with a URN of its own, for the runner to carry out."""
    def __init__(self, with_output):
        super().__init__()
        self.with_output = with_output

    def expand(self, pcoll):
        if self.with_output:
            return beam.pvalue.PCollection.from_(pcoll)
        return beam.pvalue.PDone(pcoll.pipeline)

    def to_runner_api_parameter(self, context):
        return URN, b""


def submitted(with_output, *flags):
    options = PipelineOptions(["--environment_type=LOOPBACK", *flags])
    pipeline = beam.Pipeline(options=options)
    _ = pipeline | beam.Create([1]) | "Write" >> NativeWrite(with_output)
    proto = PortableRunner.get_proto_pipeline(pipeline, options)
    return any(transform.spec.urn == URN for transform in proto.components.transforms.values())


seen = []
for with_output in (False, True):
    for flags in ((), ("--streaming",), ("--experiments=pre_optimize=none",)):
        seen.append(submitted(with_output, *flags))
        print("output" if with_output else "no output", *flags, "-> submitted:", seen[-1])
raise SystemExit(seen != [False, True, True, True, True, True])
PYTHON
venv/bin/python finding.py
# Seen:
#   no output -> submitted: False
#   no output --streaming -> submitted: True
#   no output --experiments=pre_optimize=none -> submitted: True
#   output -> submitted: True   (and so with both flags)
