"""Has expansion services that BEAM_SERVICE_OVERRIDES names used wherever apache_beam would start a jar.

The SDK itself heeds that variable inside `with beam.Pipeline()` only, and its YAML wants a `java` even where it starts none.
"""
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys


def overrides():
  return json.loads(os.environ.get('BEAM_SERVICE_OVERRIDES') or '{}')


def change_jars(module):
  server = module.JavaJarServer
  original = server.path_to_beam_jar.__func__

  def path_to_beam_jar(cls, gradle_target, *args, **kwargs):
    return overrides().get(gradle_target) or original(cls, gradle_target, *args, **kwargs)

  server.path_to_beam_jar = classmethod(path_to_beam_jar)


def change_yaml(module):
  original = module.beam_jar

  def beam_jar(urns, *args, **kwargs):
    provider = original(urns, *args, **kwargs)
    service = overrides().get(kwargs.get('gradle_target'))
    if service and service == os.environ.get('FERROBEAM_EXPANSION'):
      if any('kafka' in urn for urn in urns.values()):
        provider.available = lambda: True
        # No Java transform is fused with it: what stands beside it is to be Python's.
        beside = module.InlineProvider({})
        provider.underlying_provider = lambda: beside
      else:
        provider.available = lambda: module.NotAvailableWithReason('only Kafka is expanded by Ferrobeam')
    elif service:
      provider.available = lambda: True
    return provider

  module.beam_jar = beam_jar
  module.ExternalProvider.register_provider_type('beamJar')(beam_jar)


CHANGES = {'apache_beam.utils.subprocess_server': change_jars, 'apache_beam.yaml.yaml_provider': change_yaml}


class Finder(importlib.abc.MetaPathFinder):
  """Finds those modules as everybody does, and changes them when they have been loaded."""

  def find_spec(self, name, path, target=None):
    change = CHANGES.get(name)
    spec = change and importlib.machinery.PathFinder.find_spec(name, path, target)
    if spec and spec.loader:
      load = spec.loader.exec_module

      def load_and_change(module):
        load(module)
        change(module)

      spec.loader.exec_module = load_and_change
    return spec


def give_way():
  """Runs the user's own module of this name, if there is one."""
  here = os.path.dirname(os.path.abspath(__file__))
  others = [path for path in sys.path if os.path.abspath(path) != here]
  spec = importlib.machinery.PathFinder.find_spec('sitecustomize', others)
  if spec and spec.loader:
    module = importlib.util.module_from_spec(spec)
    sys.modules['sitecustomize'] = module
    spec.loader.exec_module(module)


sys.meta_path.insert(0, Finder())
give_way()
