"""Prints the version of apache-beam, a newline, and a serialised FileDescriptorSet of its protocol.

The set holds every file that the package's portability API consists of, with what those import, each file after its
imports. Run by tests/descriptors.rs.
"""

import importlib
import pkgutil
import sys

try:
    import apache_beam
    from apache_beam.portability import api
except ImportError as error:
    sys.exit(f"apache-beam cannot be imported: {error}")

from google.protobuf import descriptor_pb2


def generated_modules():
    for module in pkgutil.walk_packages(api.__path__, api.__name__ + "."):
        if module.name.endswith("_pb2"):
            yield importlib.import_module(module.name)


def add(file, seen, result):
    if file.name in seen:
        return
    seen.add(file.name)
    for imported in file.dependencies:
        add(imported, seen, result)
    file.CopyToProto(result.file.add())


def main():
    result, seen = descriptor_pb2.FileDescriptorSet(), set()
    for module in generated_modules():
        add(module.DESCRIPTOR, seen, result)
    sys.stdout.buffer.write(apache_beam.__version__.encode() + b"\n" + result.SerializeToString())


main()
